//! The host that a request is for.

use std::ops::Range;

use http::{HeaderValue, Uri, header, request, uri};

use crate::headers::Error;

/// Host and port that the client asked for. Empty for HTTP/1.0 requests without `Host`.
#[derive(Debug)]
pub(super) struct Authority {
    text: String,
    host: Range<usize>,
}

impl Authority {
    fn new(text: String) -> Self {
        let host = host_of(&text);
        let start = host.as_ptr().addr() - text.as_ptr().addr();
        let host = start..start + host.len();
        Self { text, host }
    }

    /// As the client wrote it.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The host without user information, port, the brackets of IPv6 addresses, and the dot of the DNS root.
    pub(super) fn host(&self) -> &str {
        &self.text[self.host.clone()]
    }
}

/// Takes the authority from the URI (HTTP/2 and absolute form) or from `Host` (RFC 9110 §7.2, RFC 9112 §3.2).
///
/// Afterwards `Host` has it, and the URI is in origin form.
pub(super) fn take_authority(head: &mut request::Parts) -> Result<Authority, Error> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => {
            let hosts = head.headers.get_all(header::HOST);
            let mut hosts = hosts.iter();
            match (hosts.next(), hosts.next()) {
                (Some(host), None) => host.to_str().map_err(|_| Error::NoHost)?.to_owned(),
                (None, _) if head.version == http::Version::HTTP_10 => String::new(),
                _ => return Err(Error::NoHost),
            }
        }
    };
    if head.uri.authority().is_some() {
        // Host has no user information (RFC 9110 §7.2).
        let host = authority.rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        head.headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| Error::NoHost)?);
        let mut parts = uri::Parts::default();
        parts.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(parts).unwrap_or_default();
    }
    Ok(Authority::new(authority))
}

/// `a.example.` and `a.example` are one host (RFC 1034 §3.1).
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => {
            let name = host.split_once(':').map_or(host, |(name, _)| name);
            name.strip_suffix('.').unwrap_or(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn authority(request: request::Builder) -> (Option<String>, request::Parts) {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        (take_authority(&mut head).ok().map(|authority| authority.text), head)
    }

    #[test]
    fn takes_exactly_one_host_and_writes_it_to_the_host_header() {
        let (host, head) = authority(Request::get("http://user@a.example:80/v1?x").header("host", "b"));
        assert_eq!(host.as_deref(), Some("user@a.example:80"));
        assert_eq!(
            (head.uri.to_string().as_str(), head.headers["host"].as_bytes()),
            ("/v1?x", &b"a.example:80"[..])
        );
        assert_eq!(authority(Request::get("/").header("host", "b:1")).0.as_deref(), Some("b:1"));
        assert_eq!(authority(Request::get("/").header("host", "a").header("host", "b")).0, None);
        assert_eq!(authority(Request::get("/")).0, None);
        assert_eq!(authority(Request::get("/").version(http::Version::HTTP_10)).0.as_deref(), Some(""));
    }

    #[test]
    fn a_host_has_no_port_and_no_brackets() {
        for (authority, host) in [("a:1", "a"), ("a", "a"), ("[::1]:80", "::1"), ("u:p@a:1", "a"), ("", "")] {
            let authority = Authority::new(authority.to_owned());
            assert_eq!(authority.host(), host, "{authority:?}");
        }
    }

    #[test]
    fn a_trailing_dot_is_not_part_of_the_host() {
        for (authority, host) in
            [("a.b.", "a.b"), ("a.b.:80", "a.b"), ("u@a.", "a"), ("a..", "a."), (".", "")]
        {
            let authority = Authority::new(authority.to_owned());
            assert_eq!(authority.host(), host, "{authority:?}");
        }
    }
}
