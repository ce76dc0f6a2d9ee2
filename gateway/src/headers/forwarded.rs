//! `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`: what the endpoint may know about the client.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Sets the headers. `client` is the address of the connection's peer.
///
/// Clients of trusted listeners are proxies: their values of the last two headers stay, and `client` is appended to the
/// first. From other clients the headers were removed ([`super::remove_internal`]).
pub(crate) fn set_forwarded(headers: &mut HeaderMap, client: &HeaderValue, scheme: &'static str) {
    let chain = match headers.get(&FOR) {
        None => client.clone(),
        // Several fields are one list (RFC 9110 §5.3).
        Some(_) => {
            let all: Vec<&[u8]> =
                headers.get_all(&FOR).iter().map(HeaderValue::as_bytes).chain([client.as_bytes()]).collect();
            // Valid values joined with valid characters are valid.
            HeaderValue::from_bytes(&all.join(&b", "[..])).unwrap_or_else(|_| client.clone())
        }
    };
    headers.insert(FOR, chain);
    headers.entry(PROTO).or_insert(HeaderValue::from_static(scheme));
    // HTTP/1.0 requests may have no host.
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(HOST).or_insert(host);
    }
}

/// Whether only proxies of this installation may set the header. `name` is in lower case with dashes.
pub(super) fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(name, "x-real-ip" | "x-original-host" | "x-original-url" | "x-rewrite-url")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut all: HeaderMap = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, HeaderValue::from_static(value));
        }
        set_forwarded(&mut all, &HeaderValue::from_static("192.0.2.1"), "https");
        all
    }

    #[test]
    fn sets_the_client_and_appends_it_to_the_chain_of_a_proxy() {
        let own = set(&[("host", "a.example:8443")]);
        assert_eq!(own["x-forwarded-for"], "192.0.2.1");
        assert_eq!(own["x-forwarded-proto"], "https");
        assert_eq!(own["x-forwarded-host"], "a.example:8443");
        let proxied = set(&[
            ("host", "internal"),
            ("x-forwarded-for", "203.0.113.7, 10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example"),
        ]);
        let chain: Vec<_> = proxied.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain, ["203.0.113.7, 10.0.0.1, 10.0.0.2, 192.0.2.1"]);
        assert_eq!(
            (&proxied["x-forwarded-proto"], &proxied["x-forwarded-host"]),
            (&HeaderValue::from_static("http"), &HeaderValue::from_static("a.example"))
        );
    }
}
