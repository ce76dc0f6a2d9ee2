//! Responses of endpoints. What the gateway accepts, hyper reads in the same way. What hyper accepts, the gateway refuses
//! only for the reasons in [`STRICTER`]. The result does not depend on how the bytes are split.

use forebay_gateway::fuzzing::{Response, read_response};
use http::{HeaderMap, Version, header};

use crate::hyper_client;

/// Why the gateway refuses responses that hyper accepts.
const STRICTER: &[&str] = &[
    "it has Transfer-Encoding in HTTP/1.0",
    "it has both Content-Length and Transfer-Encoding",
    "its transfer coding is not supported",
    "it switches protocols without an upgrade request",
    // hyper allows spaces behind the size.
    "the size of a chunk is not a number",
    // hyper drops what follows two line feeds.
    "a trailer line does not end with CRLF",
    // hyper ignores it where the response has no body.
    "invalid Content-Length",
    "conflicting Content-Length headers",
];

/// Reads the response to a GET or HEAD request.
pub fn http1(data: &[u8]) {
    let (seed, bytes) = forebay_fuzz::seed(data);
    let is_head = seed & 1 == 1;
    let whole = read_response(std::iter::once(bytes), is_head);
    for seed in [0, seed | 2] {
        let pieces = read_response(forebay_fuzz::pieces(bytes, seed), is_head);
        match (&whole, &pieces) {
            (Ok(whole), Ok(pieces)) => assert_equal(whole, pieces),
            (Err(_), Err(_)) => {}
            _ => panic!("the split matters: {whole:?}, {pieces:?}"),
        }
    }
    let theirs = hyper_client::read_response(bytes, is_head);
    match (whole, theirs) {
        (Ok(ours), Some(theirs)) => {
            assert_equal(&ours, &theirs);
            assert!(
                theirs.is_reusable || !ours.is_reusable || ours.head.version == Version::HTTP_10,
                "hyper closes the connection that the gateway keeps"
            );
        }
        (Ok(ours), None) => panic!("only the gateway accepts it: {ours:?}"),
        (Err(reason), Some(theirs)) => {
            let reason = reason.to_string();
            let is_listed = STRICTER.iter().any(|listed| reason.ends_with(listed));
            assert!(is_listed, "only hyper accepts it; the gateway: {reason}; hyper: {theirs:?}");
        }
        (Err(_), None) => {}
    }
}

fn assert_equal(ours: &Response, theirs: &Response) {
    assert_eq!(ours.head.status, theirs.head.status);
    assert_eq!(ours.head.version, theirs.head.version);
    assert_eq!(lines(&ours.head.headers), lines(&theirs.head.headers));
    assert_eq!(lengths(&ours.head.headers), lengths(&theirs.head.headers));
    assert_eq!(ours.body, theirs.body);
    let trailers = |response: &Response| response.trailers.as_ref().map(lines);
    assert_eq!(trailers(ours), trailers(theirs));
}

/// All headers in order, except lengths.
fn lines(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let lines = headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
    lines.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// The lengths, of which the gateway keeps one.
fn lengths(headers: &HeaderMap) -> Vec<u64> {
    let values = headers.get_all(header::CONTENT_LENGTH).iter();
    let parts = values.flat_map(|value| value.to_str().unwrap().split(','));
    let mut lengths: Vec<u64> = parts.map(|length| length.trim().parse().unwrap()).collect();
    lengths.dedup();
    lengths
}
