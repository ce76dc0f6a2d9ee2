//! One spelling per path, so that a route cannot be avoided by another spelling of the same path.

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use crate::headers::Error;

/// Model ids contain slashes, and clients encode them.
const MODEL_IDS: &str = "/v1/models/";

/// Rewrites the path of `uri` to one spelling. Routes match it and pods receive it.
///
/// - Percent-encoded characters that need no encoding in a path are decoded, the digits of others are upper case (RFC 3986
///   §6.2.2). uvicorn decodes the whole path before it matches, so `/v1/load%5Flora_adapter` and `%3A` must be decoded here.
/// - Dot segments are removed (RFC 3986 §5.2.4) and empty segments merged, as Envoy does for Gateway API.
/// - An encoded slash, backslash or control character, and an incomplete encoding, are errors: servers disagree on them.
///   In the id of `/v1/models/{id}` an encoded slash is decoded.
///
/// A trailing slash is kept: Gateway API's `Exact` distinguishes it, and engines redirect it.
pub(crate) fn normalise(uri: &mut Uri) -> Result<(), Error> {
    let path = uri.path();
    if is_normal(path) {
        return Ok(());
    }
    let decoded = decode(path)?;
    let path = remove_dot_segments(&decoded);
    let text = match uri.query() {
        Some(query) => Cow::Owned(format!("{path}?{query}")),
        None => Cow::Borrowed(path.as_str()),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text.as_ref()).map_err(|_| Error::InvalidPath)?);
    *uri = Uri::from_parts(parts).map_err(|_| Error::InvalidPath)?;
    Ok(())
}

/// Almost every path: no encoding, no empty segment and no segment that begins with a dot. `*` is the target of `OPTIONS *`.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    !bytes.contains(&b'%')
        && !bytes.contains(&b'\\')
        && !bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn decode(path: &str) -> Result<String, Error> {
    let keeps_slashes = !path.starts_with(MODEL_IDS);
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        let encoded = rest.get(at..at + 3).ok_or(Error::InvalidPath)?;
        let byte = percent_decode_str(encoded).next().ok_or(Error::InvalidPath)?;
        match byte {
            // Not decoded: the digits are not hexadecimal. Or a backslash, which browsers read as a slash.
            b'%' if !encoded.eq_ignore_ascii_case("%25") => return Err(Error::InvalidPath),
            b'\\' | 0..=0x1f | 0x7f => return Err(Error::InvalidPath),
            b'/' if keeps_slashes => return Err(Error::InvalidPath),
            b'/' => decoded.push('/'),
            byte if is_path_character(byte) => decoded.push(char::from(byte)),
            _ => decoded.push_str(&encoded.to_ascii_uppercase()),
        }
        rest = &rest[at + 3..];
    }
    decoded.push_str(rest);
    Ok(decoded)
}

/// `pchar` without percent-encoded characters (RFC 3986 §3.3).
fn is_path_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// RFC 3986 §5.2.4 for an absolute path, and without empty segments.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in path.split('/') {
        ends_with_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_with_slash || kept.is_empty() {
        normal.push('/');
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> Option<String> {
        let mut uri: Uri = path.parse().unwrap();
        normalise(&mut uri).ok().map(|()| uri.to_string())
    }

    #[test]
    fn every_spelling_of_a_path_becomes_the_same() {
        for (path, expected) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/load%5Flora_adapter", "/v1/load_lora_adapter"),
            ("/%6detrics", "/metrics"),
            ("/%6Detrics?a=%6d//../b", "/metrics?a=%6d//../b"),
            ("//v1///chat//completions", "/v1/chat/completions"),
            ("/./v1/x/../chat/./completions", "/v1/chat/completions"),
            ("/v1/%2e%2E/metrics", "/metrics"),
            ("/../../metrics", "/metrics"),
            ("/v1/chat/completions/", "/v1/chat/completions/"),
            ("/v1/x/..", "/v1/"),
            ("/v1/.", "/v1/"),
            ("/..", "/"),
            ("/a%3ab%40c", "/a:b@c"),
            ("/a%20b%3fc%25", "/a%20b%3Fc%25"),
            ("/%c3%a4", "/%C3%A4"),
            ("/.well-known/x", "/.well-known/x"),
            ("/v1/models/Qwen%2fQwen3", "/v1/models/Qwen/Qwen3"),
            ("/v1/models/%2e%2e/x", "/v1/x"),
            ("*", "*"),
            ("/", "/"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
            assert_eq!(normal(expected).as_deref(), Some(expected), "{path} again");
        }
    }

    #[test]
    fn paths_that_servers_disagree_on_are_rejected() {
        for path in
            ["/v1%2fmetrics", "/a%5cb", "/a%00", "/a%0d%0a", "/a%7f", "/a%", "/a%4", "/a%zz", "/a%%41"]
        {
            assert_eq!(normal(path), None, "{path}");
        }
    }

    /// What a decoded path contains is never decoded again.
    #[test]
    fn normalising_twice_changes_nothing() {
        fastrand::seed(7);
        let pieces = ["/", "//", "a", ".", "..", "%2e", "%2E", "%25", "%41", "%2541", "%20", "%2F", "_", "x"];
        let mut accepted = 0;
        for _ in 0..20_000 {
            let path: String = std::iter::once("/")
                .chain((0..fastrand::usize(..8)).map(|_| pieces[fastrand::usize(..pieces.len())]))
                .collect();
            let Some(once) = normal(&path) else { continue };
            assert_eq!(normal(&once).as_ref(), Some(&once), "{path}");
            assert!(
                !once.contains("//") && !once.contains("/./") && !once.contains("/../"),
                "{path}: {once}"
            );
            accepted += 1;
        }
        assert!(accepted > 10_000);
    }
}
