//! Decodes compressed bodies for the scan. The decoded bytes are not kept.

mod decoder;

use std::fmt;

use super::plain::PlainScanner;
use super::scanner::Progress;
use super::{BodyError, ModelName};
use decoder::Decoder;
pub(super) use decoder::Encoding;

/// Maximum bytes of a decoded body.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// Maximum ratio of decoded to encoded bytes. Deflate can reach 1032; JSON rarely exceeds 20.
const MAX_RATIO: u64 = 200;
/// The ratio is not limited below this number of decoded bytes.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// Bytes that are decoded at once.
const OUTPUT_BYTES: usize = 16 << 10;

/// Decodes a body and scans the decoded bytes.
///
/// vLLM ignores `Content-Encoding`, and other servers decode. Both must read the same model or none: a body whose encoded
/// bytes could be JSON is refused, and so is every byte that the decoder does not read.
pub(super) struct EncodedScanner {
    decoder: Decoder,
    scanner: PlainScanner,
    encoded_bytes: u64,
    decoded_bytes: u64,
    /// Reused for each piece.
    output: Vec<u8>,
}

impl EncodedScanner {
    pub(super) fn new(encoding: Encoding, scanner: PlainScanner) -> Result<Self, BodyError> {
        let output = Vec::with_capacity(OUTPUT_BYTES);
        Ok(Self { decoder: Decoder::new(encoding)?, scanner, encoded_bytes: 0, decoded_bytes: 0, output })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        if self.encoded_bytes == 0
            && let Some(&first) = bytes.first()
            && may_start_json(first)
        {
            return Err(BodyError::AmbiguousEncoding);
        }
        self.encoded_bytes += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            self.output.clear();
            let read = self.decoder.decode(rest, &mut self.output)?;
            rest = &rest[read..];
            self.scan_output()?;
            match (read, self.output.len(), rest.len()) {
                (0, 0, 0) => return Ok(self.progress()),
                // Bytes behind the end of the stream.
                (0, 0, _) => return Err(BodyError::InvalidEncoding),
                _ => {}
            }
        }
    }

    fn scan_output(&mut self) -> Result<(), BodyError> {
        self.decoded_bytes += self.output.len() as u64;
        let exceeds_ratio =
            self.decoded_bytes > RATIO_FREE_BYTES && self.decoded_bytes / MAX_RATIO > self.encoded_bytes;
        if self.decoded_bytes > MAX_DECODED_BYTES || exceeds_ratio {
            return Err(BodyError::DecodedTooLarge);
        }
        self.scanner.feed(&self.output).map(drop)
    }

    pub(super) fn finish(&mut self) -> Result<(), BodyError> {
        self.scanner.finish()?;
        self.decoder.finish()
    }

    pub(super) fn model(&self) -> Option<&ModelName> {
        self.scanner.model()
    }

    /// Never [`Progress::Finished`]: the bytes behind the JSON object may not be valid.
    pub(super) fn progress(&self) -> Progress {
        match self.scanner.progress() {
            Progress::Finished => Progress::Model,
            progress => progress,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.decoder.memory_bytes()
    }
}

/// Whether a server that ignores `Content-Encoding` could read a body with this first byte as JSON: whitespace, a brace, a
/// byte order mark, or the zero byte of UTF-16. Only brotli, which has no magic number, can begin with one of them.
fn may_start_json(first: u8) -> bool {
    matches!(first, b' ' | b'\t' | b'\n' | b'\r' | b'{' | 0 | 0xef | 0xfe | 0xff)
}

impl fmt::Debug for EncodedScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedScanner").field("encoded_bytes", &self.encoded_bytes).finish_non_exhaustive()
    }
}
