//! JSON strings, byte by byte, resumable anywhere.

use memchr::memchr;

use super::block::{BLOCK_BYTES, quotes};
use super::{BodyError, MAX_MODEL_NAME_BYTES, ModelName};

/// What one byte of a string meant once its escapes are resolved.
pub enum Piece {
    /// Inside an escape: more bytes are needed.
    Pending,
    /// A byte of the content (of UTF-8, or of an escape that is one ASCII character).
    Byte(u8),
    /// A `\uXXXX` escape: a UTF-16 code unit.
    Unit(u16),
    /// The closing quote.
    End,
}

#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    Backslash,
    Unicode {
        digits: u8,
        unit: u16,
    },
}

/// Resolves the escapes of one string.
#[derive(Debug, Default)]
pub struct Unescape(Escape);

impl Unescape {
    pub fn push(&mut self, byte: u8) -> Result<Piece, BodyError> {
        const BAD_ESCAPE: BodyError = BodyError::Malformed("unknown escape in a string");
        match self.0 {
            Escape::None => Ok(match byte {
                b'"' => Piece::End,
                b'\\' => {
                    self.0 = Escape::Backslash;
                    Piece::Pending
                }
                other => Piece::Byte(other),
            }),
            Escape::Backslash => {
                self.0 = Escape::None;
                Ok(Piece::Byte(match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        self.0 = Escape::Unicode { digits: 0, unit: 0 };
                        return Ok(Piece::Pending);
                    }
                    _ => return Err(BAD_ESCAPE),
                }))
            }
            Escape::Unicode { digits, unit } => {
                let digit = char::from(byte).to_digit(16).ok_or(BAD_ESCAPE)?;
                let unit = unit << 4 | digit as u16;
                if digits < 3 {
                    self.0 = Escape::Unicode { digits: digits + 1, unit };
                    return Ok(Piece::Pending);
                }
                self.0 = Escape::None;
                Ok(Piece::Unit(unit))
            }
        }
    }

    /// Whether the next byte starts a new character of the content.
    pub fn is_between(&self) -> bool {
        matches!(self.0, Escape::None)
    }
}

/// Compares a key, as it arrives, with `model`.
#[derive(Debug, Default)]
pub(super) struct KeyMatcher {
    unescape: Unescape,
    matched: usize,
    differs: bool,
}

pub(super) enum KeyStep {
    More,
    /// It is another key and no escape is pending: the rest can be skipped quickly.
    Other,
    End {
        is_model: bool,
    },
}

impl KeyMatcher {
    pub(super) const KEY: &[u8] = b"model";

    pub(super) fn push(&mut self, byte: u8) -> Result<KeyStep, BodyError> {
        let content = match self.unescape.push(byte)? {
            Piece::Pending => return Ok(KeyStep::More),
            Piece::End => {
                return Ok(KeyStep::End { is_model: !self.differs && self.matched == Self::KEY.len() });
            }
            Piece::Byte(byte) => u16::from(byte),
            Piece::Unit(unit) => unit,
        };
        if Self::KEY.get(self.matched).is_some_and(|&expected| u16::from(expected) == content) {
            self.matched += 1;
        } else {
            self.differs = true;
        }
        Ok(if self.differs && self.unescape.is_between() { KeyStep::Other } else { KeyStep::More })
    }
}

/// Decodes the value of `model`.
#[derive(Debug, Default)]
pub(super) struct ValueDecoder {
    unescape: Unescape,
    high_surrogate: Option<u16>,
    decoded: Vec<u8>,
}

impl ValueDecoder {
    /// The name, once its closing quote has been pushed.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<ModelName>, BodyError> {
        match self.unescape.push(byte)? {
            Piece::Pending => return Ok(None),
            Piece::Unit(unit) => self.push_unit(unit)?,
            Piece::Byte(_) | Piece::End if self.high_surrogate.is_some() => {
                return Err(BodyError::ModelCharacters);
            }
            Piece::Byte(byte) => self.decoded.push(byte),
            Piece::End => return ModelName::decoded(&self.decoded).map(Some),
        }
        if self.decoded.len() > MAX_MODEL_NAME_BYTES {
            return Err(BodyError::ModelTooLong);
        }
        Ok(None)
    }

    fn push_unit(&mut self, unit: u16) -> Result<(), BodyError> {
        let is_high = (0xd800..0xdc00).contains(&unit);
        let (first, second) = match self.high_surrogate.take() {
            None if is_high => {
                self.high_surrogate = Some(unit);
                return Ok(());
            }
            None => (unit, None),
            Some(high) => (high, Some(unit)),
        };
        for decoded in char::decode_utf16([first].into_iter().chain(second)) {
            let decoded = decoded.map_err(|_| BodyError::ModelCharacters)?;
            self.decoded.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

/// Where the content of a skipped string goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    Inside,
    AfterBackslash,
    Ended,
}

/// Blocks without a quote that are read here one after the other; then memchr is called, which takes time to
/// begin and is faster once it runs.
const NEAR_BLOCKS: usize = 4;

/// Skips the content of a string up to and including its closing quote; gives the bytes used.
///
/// Only quotes are looked for: whether one is escaped is seen from the backslashes before it.
pub fn skip_string(bytes: &[u8], from: Skip) -> (usize, Skip) {
    let start = usize::from(from == Skip::AfterBackslash);
    let Some(content) = bytes.get(start..) else { return (bytes.len(), from) };
    let mut at = 0;
    let mut empty_blocks = 0;
    while let Some(block) = content[at..].first_chunk::<BLOCK_BYTES>() {
        let mut quotes = quotes(block);
        if quotes == 0 {
            at += BLOCK_BYTES;
            empty_blocks += 1;
            if empty_blocks == NEAR_BLOCKS {
                empty_blocks = 0;
                at += memchr(b'"', &content[at..]).unwrap_or(content.len() - at);
            }
            continue;
        }
        while quotes != 0 {
            let quote = at + quotes.trailing_zeros() as usize;
            if !is_escaped(content, quote) {
                return (start + quote + 1, Skip::Ended);
            }
            quotes &= quotes - 1;
        }
        at += BLOCK_BYTES;
    }
    while let Some(found) = memchr(b'"', &content[at..]) {
        let quote = at + found;
        if !is_escaped(content, quote) {
            return (start + quote + 1, Skip::Ended);
        }
        at = quote + 1;
    }
    (bytes.len(), if is_escaped(content, content.len()) { Skip::AfterBackslash } else { Skip::Inside })
}

/// Whether the byte of `content` at `at` is escaped; the first never is.
fn is_escaped(content: &[u8], at: usize) -> bool {
    content[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Longest string that is looked at as a whole.
const SHORT_BYTES: usize = BLOCK_BYTES;

/// The content of a short string without escapes that ends in `bytes`, which begin behind its opening
/// quote. For all other strings there is nothing.
pub(super) fn plain_string(bytes: &[u8]) -> Option<&[u8]> {
    let end = match bytes.first_chunk::<BLOCK_BYTES>() {
        Some(block) => quotes(block).trailing_zeros() as usize,
        None => memchr(b'"', bytes)?,
    };
    let content = bytes.get(..end).filter(|content| content.len() < SHORT_BYTES)?;
    (!content.contains(&b'\\')).then_some(content)
}
