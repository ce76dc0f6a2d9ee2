//! Results of scanners and splicers for whole and split bodies.

use bytes::Bytes;
use forebay_openai::{BodyError, BodyScanner, ModelName, Splicer};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
}

/// The model of a body, read in these pieces.
pub(crate) fn scan<'a>(
    headers: &HeaderMap,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<ModelName, BodyError> {
    let mut scanner = BodyScanner::new(headers)?;
    for piece in pieces {
        scanner.feed(piece)?;
    }
    scanner.finish()?;
    scanner.model().cloned().ok_or(BodyError::ModelMissing)
}

/// The model of a body, which does not depend on the split.
pub(crate) fn scan_split(headers: &HeaderMap, body: &[u8], seed: u8) -> Result<ModelName, BodyError> {
    let whole = scan(headers, std::iter::once(body));
    for seed in [0, seed] {
        assert_eq!(scan(headers, forebay_fuzz::pieces(body, seed)), whole, "the split matters");
    }
    whole
}

/// The body with `name` as its model, in these pieces.
pub(crate) fn splice<'a>(
    mut splicer: Splicer,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::new();
    for piece in pieces {
        splicer.feed(&Bytes::copy_from_slice(piece), |bytes| out.extend_from_slice(&bytes))?;
    }
    splicer.finish()?;
    Ok(out)
}

/// The body with another model, which does not depend on the split.
pub(crate) fn splice_split(
    splicer: impl Fn() -> Splicer,
    body: &[u8],
    seed: u8,
) -> Result<Vec<u8>, BodyError> {
    let whole = splice(splicer(), std::iter::once(body));
    for seed in [0, seed] {
        // Which of two faults is reported may depend on the split.
        let split = splice(splicer(), forebay_fuzz::pieces(body, seed));
        assert_eq!(split.as_ref().ok(), whole.as_ref().ok(), "the split matters: {split:?}, {whole:?}");
    }
    whole
}
