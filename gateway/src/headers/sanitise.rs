use http::{HeaderMap, HeaderValue, header};

use super::hop_by_hop::remove_hop_by_hop;

/// Why the head of a request is rejected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1).
    #[error("a request must not have both Content-Length and Transfer-Encoding")]
    AmbiguousLength,
    /// `CONNECT`, or an upgrade to WebSocket.
    #[error("WebSockets and tunnels are not supported")]
    UpgradeUnsupported,
    /// No host, or several (RFC 9112 §3.2).
    #[error("the request has no valid host")]
    NoHost,
    /// A path that servers read in different ways.
    #[error(
        "the path has an encoded slash, backslash or control character, or an incomplete encoding; send it unencoded"
    )]
    InvalidPath,
}

/// Validates the headers of a request and removes those that belong to the client's connection.
///
/// Runs before any other code reads the headers.
pub(crate) fn sanitise(headers: &mut HeaderMap) -> Result<(), Error> {
    let (mut has_encoding, mut has_length, mut has_upgrade, mut has_expect) = (false, false, false, false);
    let mut has_cookie = false;
    // One scan over the names: most requests have only a length.
    for name in headers.keys() {
        match name.as_str() {
            "transfer-encoding" => has_encoding = true,
            "content-length" => has_length = true,
            "upgrade" => has_upgrade = true,
            "expect" => has_expect = true,
            "cookie" => has_cookie = true,
            _ => {}
        }
    }
    // Protects against request smuggling (RFC 9112 §6.1).
    if has_encoding && has_length {
        return Err(Error::AmbiguousLength);
    }
    let asks_for = |protocol: &[u8]| {
        let upgrades = headers.get_all(header::UPGRADE);
        upgrades
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|asked| asked.trim_ascii().eq_ignore_ascii_case(protocol))
    };
    // A server may ignore Upgrade (RFC 9110 §7.8), which suits `h2c`. A WebSocket client needs the upgrade.
    if has_upgrade && asks_for(b"websocket") {
        return Err(Error::UpgradeUnsupported);
    }
    remove_hop_by_hop(headers);
    // hyper answers Expect when the body is read. The length is written again from the body.
    if has_expect {
        headers.remove(header::EXPECT);
    }
    if has_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    if has_cookie {
        join_cookies(headers);
    }
    Ok(())
}

/// HTTP/2 clients may split `Cookie` into several fields, which HTTP/1.1 servers do not expect (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return;
    }
    // Valid values joined with valid characters are valid.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn removes_headers_of_the_connection() {
        let mut all = headers(&["host", "te", "upgrade", "x-named", "x-kept", "expect", "keep-alive"]);
        all.insert(header::CONNECTION, HeaderValue::from_static("x-named, Host"));
        sanitise(&mut all).unwrap();
        assert_eq!(names(&all), ["host", "x-kept"]);
    }

    #[test]
    fn rejects_websockets_and_ignores_other_upgrades() {
        let mut all = headers(&["host"]);
        all.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        sanitise(&mut all).unwrap();
        assert_eq!(names(&all), ["host"]);
        all.insert(header::UPGRADE, HeaderValue::from_static("h2c, WebSocket"));
        assert!(matches!(sanitise(&mut all), Err(Error::UpgradeUnsupported)));
    }

    #[test]
    fn joins_cookies_in_their_order() {
        let cookies = |values: &[&[u8]]| {
            let mut all = headers(&["host"]);
            for value in values {
                all.append(header::COOKIE, HeaderValue::from_bytes(value).unwrap());
            }
            sanitise(&mut all).unwrap();
            all.get_all(header::COOKIE).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(cookies(&[]), Vec::<Vec<u8>>::new());
        assert_eq!(cookies(&[b"a=1; b=2"]), [b"a=1; b=2"]);
        assert_eq!(cookies(&[b"a=1", b"b=\xff", b"c=3; d=4"]), [b"a=1; b=\xff; c=3; d=4"]);
    }

    #[test]
    fn rejects_content_length_with_transfer_encoding() {
        let mut all = headers(&["content-length", "transfer-encoding"]);
        assert!(matches!(sanitise(&mut all), Err(Error::AmbiguousLength)));
    }
}
