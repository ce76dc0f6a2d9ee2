//! Paths of requests: what the pod reads after decoding is what the routes matched.

use forebay_gateway::fuzzing::normalise_path;
use http::Uri;
use percent_encoding::percent_decode_str;

/// Normalises the path and query in `data`.
pub fn path(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<Uri>() else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    let (path, query) = (uri.path().to_owned(), uri.query().map(str::to_owned));
    let Some(normal) = normalise_path(uri) else { return };
    assert_eq!(normal.query(), query.as_deref(), "the query changed");
    assert_eq!(normalise_path(normal.clone()).as_ref(), Some(&normal), "{path:?} has two spellings");
    // An engine decodes the whole path before it matches (uvicorn, RFC 9110 §4.2.3).
    let received = decode(normal.path());
    assert_eq!(
        String::from_utf8_lossy(&received),
        String::from_utf8_lossy(&resolve(&decode(&path))),
        "{path:?}"
    );
    assert_eq!(received, resolve(&received), "{path:?} is not resolved");
}

fn decode(path: &str) -> Vec<u8> {
    percent_decode_str(path).collect()
}

/// Without empty and dot segments (RFC 3986 §5.2.4).
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for segment in path.split(|byte| *byte == b'/') {
        last = segment;
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut resolved: Vec<u8> = segments.iter().flat_map(|segment| [b"/", *segment].concat()).collect();
    if segments.is_empty() || matches!(last, b"" | b"." | b"..") {
        resolved.push(b'/');
    }
    resolved
}
