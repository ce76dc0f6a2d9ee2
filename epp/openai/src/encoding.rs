//! Compressed bodies: decoded for the scan, and for nothing else.

use std::fmt;
use std::io::{self, Write};

use super::body::PlainScanner;
use super::scanner::Progress;
use super::{BodyError, ModelName};

/// Most bytes that one body may become.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// A body may become so many times as large; JSON seldom becomes more than twenty times.
const MAX_RATIO: u64 = 200;
/// Below this no ratio is looked at.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// Largest window of zstd: what RFC 8878 wants every decoder to take.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes that a brotli decoder gives out at once.
const BROTLI_BUFFER_BYTES: usize = 16 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// Of a `Content-Encoding`.
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

/// Scans what a compressed body holds.
pub(super) struct EncodedScanner {
    decoder: Decoder,
    encoded_bytes: u64,
}

enum Decoder {
    Gzip(Box<flate2::write::MultiGzDecoder<Sink>>),
    /// With zlib's frame or, as some send it, without: its first byte tells.
    DeflateUnread(Option<Sink>),
    Zlib(Box<flate2::write::ZlibDecoder<Sink>>),
    Deflate(Box<flate2::write::DeflateDecoder<Sink>>),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

/// Where decoded bytes go.
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
            Encoding::Deflate => Decoder::DeflateUnread(Some(sink)),
            Encoding::Brotli => Decoder::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(
                sink,
                BROTLI_BUFFER_BYTES,
            ))),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(sink).map_err(|_| BodyError::Encoding)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| BodyError::Encoding)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { decoder, encoded_bytes: 0 })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        if bytes.is_empty() || self.progress() == Progress::Finished {
            return Ok(self.progress());
        }
        if let Decoder::DeflateUnread(sink) = &mut self.decoder
            && let Some(sink) = sink.take()
        {
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
            Decoder::DeflateUnread(_) => Ok(()),
            Decoder::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Deflate(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Brotli(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Zstd(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
        };
        if written.is_err() && self.progress() != Progress::Finished {
            return Err(self.sink_mut().and_then(|sink| sink.error).unwrap_or(BodyError::Encoding));
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
            Decoder::DeflateUnread(sink) => sink.as_ref(),
            Decoder::Zlib(decoder) => Some(decoder.get_ref()),
            Decoder::Deflate(decoder) => Some(decoder.get_ref()),
            Decoder::Brotli(decoder) => Some(decoder.get_ref()),
            Decoder::Zstd(decoder) => Some(decoder.get_ref()),
        }
    }

    fn sink_mut(&mut self) -> Option<&mut Sink> {
        match &mut self.decoder {
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::DeflateUnread(sink) => sink.as_mut(),
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
