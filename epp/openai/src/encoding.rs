//! Decodes compressed bodies for the scan. The decoded bytes are not kept.

use std::fmt;
use std::io::{self, Write};

use super::plain::PlainScanner;
use super::scanner::Progress;
use super::{BodyError, ModelName};

/// Maximum bytes of a decoded body.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// Maximum ratio of decoded to encoded bytes. Deflate can reach 1032; JSON rarely exceeds 20.
const MAX_RATIO: u64 = 200;
/// The ratio is not limited below this number of decoded bytes.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// Maximum window of zstd, as a power of two: 8 MiB, the size that RFC 8878 §3.1.1.1.2 recommends decoders to support.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Output buffer of the brotli decoder.
const BROTLI_BUFFER_BYTES: usize = 16 << 10;

/// A supported `Content-Encoding` (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// Parses a content coding.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match () {
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("deflate") => Some(Self::Deflate),
            () if is("br") => Some(Self::Brotli),
            () if is("zstd") => Some(Self::Zstd),
            () => None,
        }
    }
}

/// Decodes a body and scans the decoded bytes.
pub(super) struct EncodedScanner {
    decoder: Decoder,
    encoded_bytes: u64,
}

enum Decoder {
    Gzip(Box<flate2::write::MultiGzDecoder<Sink>>),
    /// `deflate` before the first byte. It is the zlib format (RFC 9110 §8.4.1.2), but some clients send raw deflate; the
    /// first byte shows which.
    DeflateUnknown(Option<Sink>),
    Zlib(Box<flate2::write::ZlibDecoder<Sink>>),
    Deflate(Box<flate2::write::DeflateDecoder<Sink>>),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

/// Receives decoded bytes and scans them.
#[derive(Debug)]
struct Sink {
    scanner: PlainScanner,
    decoded_bytes: u64,
    encoded_bytes: u64,
    error: Option<BodyError>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoded_bytes += bytes.len() as u64;
        let is_bomb = self.decoded_bytes > MAX_DECODED_BYTES
            || (self.decoded_bytes > RATIO_FREE_BYTES && self.decoded_bytes / MAX_RATIO > self.encoded_bytes);
        let scanned =
            if is_bomb { Err(BodyError::DecodedTooLarge) } else { self.scanner.feed(bytes).map(drop) };
        match scanned {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.error = Some(error);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl EncodedScanner {
    pub(super) fn new(encoding: Encoding, scanner: PlainScanner) -> Result<Self, BodyError> {
        let sink = Sink { scanner, decoded_bytes: 0, encoded_bytes: 0, error: None };
        let decoder = match encoding {
            Encoding::Gzip => Decoder::Gzip(Box::new(flate2::write::MultiGzDecoder::new(sink))),
            Encoding::Deflate => Decoder::DeflateUnknown(Some(sink)),
            Encoding::Brotli => Decoder::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(
                sink,
                BROTLI_BUFFER_BYTES,
            ))),
            Encoding::Zstd => {
                let mut decoder =
                    zstd::stream::write::Decoder::new(sink).map_err(|_| BodyError::InvalidEncoding)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| BodyError::InvalidEncoding)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { decoder, encoded_bytes: 0 })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        if bytes.is_empty() || self.progress() == Progress::Finished {
            return Ok(self.progress());
        }
        if let Decoder::DeflateUnknown(sink) = &mut self.decoder
            && let Some(sink) = sink.take()
        {
            /// Compression method in the low half of the first byte (RFC 1950 §2.2).
            const ZLIB_METHOD: u8 = 8;
            self.decoder = if bytes[0] & 0x0f == ZLIB_METHOD {
                Decoder::Zlib(Box::new(flate2::write::ZlibDecoder::new(sink)))
            } else {
                Decoder::Deflate(Box::new(flate2::write::DeflateDecoder::new(sink)))
            };
        }
        self.encoded_bytes += bytes.len() as u64;
        let encoded_bytes = self.encoded_bytes;
        if let Some(sink) = self.sink_mut() {
            sink.encoded_bytes = encoded_bytes;
        }
        let written = match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::DeflateUnknown(_) => Ok(()),
            Decoder::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Deflate(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Brotli(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Zstd(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
        };
        if written.is_err() && self.progress() != Progress::Finished {
            return Err(self.sink_mut().and_then(|sink| sink.error).unwrap_or(BodyError::InvalidEncoding));
        }
        Ok(self.progress())
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        self.sink().map_or(Err(BodyError::Empty), |sink| sink.scanner.finish())
    }

    pub(super) fn model(&self) -> Option<&ModelName> {
        self.sink()?.scanner.model()
    }

    pub(super) fn progress(&self) -> Progress {
        self.sink().map_or(Progress::Undecided, |sink| sink.scanner.progress())
    }

    fn sink(&self) -> Option<&Sink> {
        match &self.decoder {
            Decoder::Gzip(decoder) => Some(decoder.get_ref()),
            Decoder::DeflateUnknown(sink) => sink.as_ref(),
            Decoder::Zlib(decoder) => Some(decoder.get_ref()),
            Decoder::Deflate(decoder) => Some(decoder.get_ref()),
            Decoder::Brotli(decoder) => Some(decoder.get_ref()),
            Decoder::Zstd(decoder) => Some(decoder.get_ref()),
        }
    }

    fn sink_mut(&mut self) -> Option<&mut Sink> {
        match &mut self.decoder {
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::DeflateUnknown(sink) => sink.as_mut(),
            Decoder::Zlib(decoder) => Some(decoder.get_mut()),
            Decoder::Deflate(decoder) => Some(decoder.get_mut()),
            Decoder::Brotli(decoder) => Some(decoder.get_mut()),
            Decoder::Zstd(decoder) => Some(decoder.get_mut()),
        }
    }
}

impl fmt::Debug for EncodedScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedScanner").field("encoded_bytes", &self.encoded_bytes).finish_non_exhaustive()
    }
}
