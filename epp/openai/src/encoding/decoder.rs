//! The decoders of content codings.

use std::io::Write as _;

use brotli_decompressor::{
    BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper as _, StandardAlloc,
};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::BodyError;

/// Maximum window of zstd, as a power of two: 8 MiB, the size that RFC 8878 §3.1.1.1.2 recommends decoders to support.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Encoded bytes given to the gzip decoder at once. Deflate can expand them 1032 times.
const GZIP_STEP_BYTES: usize = 64;
/// State of a deflate decoder: a window of 32 KiB (RFC 1951 §2) and Huffman tables.
const DEFLATE_BYTES: usize = 48 << 10;
/// State of a brotli decoder without its window.
const BROTLI_BYTES: usize = 64 << 10;

/// A supported `Content-Encoding` (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// Parses a content coding.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
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

/// Decodes one stream: one gzip member, one zlib stream, one brotli stream or one zstd frame. Decoders differ in what they
/// do with bytes behind it, so such bytes are an error.
pub(super) struct Decoder {
    format: Format,
    has_ended: bool,
}

enum Format {
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
    /// `deflate` is the zlib format (RFC 9110 §8.4.1.2). Raw deflate has no magic number: a body could be JSON, too.
    Zlib(Decompress),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Box<DCtx<'static>>),
}

impl Decoder {
    pub(super) fn new(encoding: Encoding) -> Result<Self, BodyError> {
        let format = match encoding {
            Encoding::Gzip => Format::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))),
            Encoding::Deflate => Format::Zlib(Decompress::new(true)),
            Encoding::Brotli => {
                let alloc = StandardAlloc::default;
                Format::Brotli(Box::new(BrotliState::new(alloc(), alloc(), alloc())))
            }
            Encoding::Zstd => {
                let mut context = DCtx::create();
                context
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                    .map_err(|_| BodyError::InvalidEncoding)?;
                Format::Zstd(Box::new(context))
            }
        };
        Ok(Self { format, has_ended: false })
    }

    /// Decodes from `input` into `output`, which is empty. Returns the number of bytes read. Nothing read and nothing
    /// written: more input is needed, or the stream has ended.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, BodyError> {
        if self.has_ended {
            return Ok(0);
        }
        match &mut self.format {
            Format::Gzip(decoder) => gzip(decoder, input, output),
            Format::Zlib(decoder) => {
                let before = decoder.total_in();
                let status = decoder
                    .decompress_vec(input, output, FlushDecompress::None)
                    .map_err(|_| BodyError::InvalidEncoding)?;
                self.has_ended = status == Status::StreamEnd;
                Ok((decoder.total_in() - before) as usize)
            }
            Format::Brotli(state) => {
                let (read, ended) = brotli(state, input, output)?;
                self.has_ended = ended;
                Ok(read)
            }
            Format::Zstd(context) => {
                let mut source = InBuffer::around(input);
                let missing = context
                    .decompress_stream(&mut OutBuffer::around(output), &mut source)
                    .map_err(|_| BodyError::InvalidEncoding)?;
                self.has_ended = missing == 0 && !input.is_empty();
                Ok(source.pos())
            }
        }
    }

    /// Checks that the stream has ended, with its checksum where it has one.
    pub(super) fn finish(&mut self) -> Result<(), BodyError> {
        match &mut self.format {
            Format::Gzip(decoder) => decoder.try_finish().map_err(|_| BodyError::InvalidEncoding),
            _ if self.has_ended => Ok(()),
            _ => Err(BodyError::InvalidEncoding),
        }
    }

    /// Memory of the decoder, mostly its window.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.format {
            Format::Gzip(_) | Format::Zlib(_) => DEFLATE_BYTES,
            Format::Brotli(state) => BROTLI_BYTES + state.ringbuffer.slice().len(),
            Format::Zstd(context) => context.sizeof(),
        }
    }
}

fn gzip(
    decoder: &mut flate2::write::GzDecoder<Vec<u8>>,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<usize, BodyError> {
    let read = match input.get(..GZIP_STEP_BYTES).unwrap_or(input) {
        [] => 0,
        step => decoder.write(step).map_err(|_| BodyError::InvalidEncoding)?,
    };
    decoder.flush().map_err(|_| BodyError::InvalidEncoding)?;
    output.append(decoder.get_mut());
    Ok(read)
}

/// Bytes read, and whether the stream has ended.
fn brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<(usize, bool), BodyError> {
    output.resize(output.capacity(), 0);
    let (mut input_left, mut read) = (input.len(), 0);
    let (mut output_left, mut written, mut total) = (output.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut input_left,
        &mut read,
        input,
        &mut output_left,
        &mut written,
        output,
        &mut total,
        state,
    );
    output.truncate(written);
    match result {
        BrotliResult::ResultFailure => Err(BodyError::InvalidEncoding),
        BrotliResult::ResultSuccess => Ok((read, true)),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok((read, false)),
    }
}
