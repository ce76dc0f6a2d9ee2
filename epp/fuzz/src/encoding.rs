//! Compressed bodies: what is accepted has the model that a server reads after decoding, and no byte behind the stream.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use forebay_openai::{BodyError, ModelName};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use crate::outcome::{headers, scan, scan_split};

const NAMES: [&str; 4] = ["gzip", "deflate", "br", "zstd"];
/// Upper bound of what one input of the fuzzer decodes to: 200 times its size, or 1 MiB.
const MAX_DECODED_BYTES: u64 = 2 << 20;

/// Reads a compressed body, or one that is compressed here.
pub fn encoding(data: &[u8]) {
    let (seed, body) = forebay_fuzz::seed(data);
    let name = NAMES[usize::from(seed % 4)];
    let plain = headers(CONTENT_TYPE, "application/json");
    let mut encoded = plain.clone();
    encoded.insert(CONTENT_ENCODING, HeaderValue::from_static(name));

    if seed & 4 != 0
        && let Some(compressed) = compress(name, body)
    {
        agrees(&plain, body, scan_split(&encoded, &compressed, seed));
        let behind = [&compressed[..], b"x"].concat();
        assert!(scan(&encoded, std::iter::once(&behind[..])).is_err(), "a byte behind the stream");
        let cut = &compressed[..compressed.len() - 1];
        assert!(scan(&encoded, std::iter::once(cut)).is_err(), "a stream without its end");
        return;
    }
    let model = scan(&encoded, std::iter::once(body)).ok();
    for seed in [0, seed] {
        // Whether the scanner or the decoder finds the fault may depend on the split.
        let split = scan(&encoded, forebay_fuzz::pieces(body, seed));
        assert_eq!(split.as_ref().ok(), model.as_ref(), "the split matters: {split:?}, {model:?}");
    }
    if let Some(model) = model {
        let decoded = decode(name, body).expect("only the scanner can decode it");
        assert_eq!(scan(&plain, std::iter::once(&decoded[..])), Ok(model));
    }
}

/// The compressed body has the outcome of the plain one.
fn agrees(plain: &HeaderMap, body: &[u8], outcome: Result<ModelName, BodyError>) {
    assert_eq!(outcome, scan(plain, std::iter::once(body)));
}

/// Decodes one stream that fills `body`.
fn decode(name: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut input = body;
    let result = match name {
        "gzip" => {
            flate2::bufread::GzDecoder::new(&mut input).take(MAX_DECODED_BYTES).read_to_end(&mut decoded)
        }
        "deflate" => {
            flate2::bufread::ZlibDecoder::new(&mut input).take(MAX_DECODED_BYTES).read_to_end(&mut decoded)
        }
        "zstd" => {
            let decoder = zstd::Decoder::with_buffer(&mut input).ok()?.single_frame();
            decoder.take(MAX_DECODED_BYTES).read_to_end(&mut decoded)
        }
        _ => {
            let decoder = brotli_decompressor::Decompressor::new(std::mem::take(&mut input), 4096);
            decoder.take(MAX_DECODED_BYTES).read_to_end(&mut decoded)
        }
    };
    (result.is_ok() && input.is_empty()).then_some(decoded)
}

/// `None` for brotli, which has no compressor here.
fn compress(name: &str, body: &[u8]) -> Option<Vec<u8>> {
    let level = Compression::fast();
    match name {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).ok()?;
            encoder.finish().ok()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).ok()?;
            encoder.finish().ok()
        }
        "zstd" => zstd::bulk::compress(body, 1).ok(),
        _ => None,
    }
}
