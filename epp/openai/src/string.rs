//! Reads JSON strings (RFC 8259 §7), which may be split at any byte.

use memchr::memchr;

use super::block::{BLOCK_BYTES, quotes};
use super::{BodyError, MAX_MODEL_NAME_BYTES, ModelName};

/// Result of [`Unescape::push`].
pub(crate) enum Unescaped {
    /// Inside an escape. More bytes are needed.
    Incomplete,
    /// A byte of the content: of UTF-8, or of an escape of one ASCII character.
    Byte(u8),
    /// A UTF-16 code unit from a `\uXXXX` escape.
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
pub(crate) struct Unescape(Escape);

impl Unescape {
    /// Reads the next byte after the opening quote.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Unescaped, BodyError> {
        const BAD_ESCAPE: BodyError = BodyError::Malformed("invalid escape in a string");
        match self.0 {
            Escape::None => Ok(match byte {
                b'"' => Unescaped::End,
                b'\\' => {
                    self.0 = Escape::Backslash;
                    Unescaped::Incomplete
                }
                other => Unescaped::Byte(other),
            }),
            Escape::Backslash => {
                self.0 = Escape::None;
                Ok(Unescaped::Byte(match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        self.0 = Escape::Unicode { digits: 0, unit: 0 };
                        return Ok(Unescaped::Incomplete);
                    }
                    _ => return Err(BAD_ESCAPE),
                }))
            }
            Escape::Unicode { digits, unit } => {
                let digit = char::from(byte).to_digit(16).ok_or(BAD_ESCAPE)?;
                let unit = unit << 4 | digit as u16;
                if digits < 3 {
                    self.0 = Escape::Unicode { digits: digits + 1, unit };
                    return Ok(Unescaped::Incomplete);
                }
                self.0 = Escape::None;
                Ok(Unescaped::Unit(unit))
            }
        }
    }

    /// Whether the next byte is not part of an escape.
    pub(crate) fn is_between_escapes(&self) -> bool {
        matches!(self.0, Escape::None)
    }
}

/// Compares a key with `model`.
#[derive(Debug, Default)]
pub(super) struct KeyMatcher {
    unescape: Unescape,
    matched: usize,
    differs: bool,
}

pub(super) enum KeyStep {
    More,
    /// Another key, and no escape is pending. The rest can be skipped with [`skip_string`].
    Other,
    End {
        is_model: bool,
    },
}

impl KeyMatcher {
    pub(super) const KEY: &[u8] = b"model";

    pub(super) fn push(&mut self, byte: u8) -> Result<KeyStep, BodyError> {
        let content = match self.unescape.push(byte)? {
            Unescaped::Incomplete => return Ok(KeyStep::More),
            Unescaped::End => {
                return Ok(KeyStep::End { is_model: !self.differs && self.matched == Self::KEY.len() });
            }
            Unescaped::Byte(byte) => u16::from(byte),
            Unescaped::Unit(unit) => unit,
        };
        if Self::KEY.get(self.matched).is_some_and(|&expected| u16::from(expected) == content) {
            self.matched += 1;
        } else {
            self.differs = true;
        }
        Ok(if self.differs && self.unescape.is_between_escapes() { KeyStep::Other } else { KeyStep::More })
    }
}

/// Reads the name of a member, to compare it with known ones of at most `BYTES` bytes of ASCII.
#[derive(Debug)]
pub(crate) struct Name<const BYTES: usize> {
    unescape: Unescape,
    content: [u8; BYTES],
    length: usize,
    is_other: bool,
}

pub(crate) enum NameStep<'a> {
    More,
    /// None of the known names, and no escape is pending. The rest can be skipped with [`skip_string`].
    Other,
    /// The whole name without escapes. Empty if it is unknown.
    End(&'a [u8]),
}

impl<const BYTES: usize> Default for Name<BYTES> {
    fn default() -> Self {
        Self { unescape: Unescape::default(), content: [0; BYTES], length: 0, is_other: false }
    }
}

impl<const BYTES: usize> Name<BYTES> {
    /// Reads the next byte after the opening quote.
    pub(crate) fn push(&mut self, byte: u8) -> Result<NameStep<'_>, BodyError> {
        let content = match self.unescape.push(byte)? {
            Unescaped::Incomplete => return Ok(NameStep::More),
            Unescaped::End if self.is_other => return Ok(NameStep::End(&[])),
            Unescaped::End => return Ok(NameStep::End(&self.content[..self.length])),
            Unescaped::Byte(byte) => Some(byte),
            Unescaped::Unit(unit) => u8::try_from(unit).ok(),
        };
        match (content, self.content.get_mut(self.length)) {
            (Some(content), Some(next)) => {
                *next = content;
                self.length += 1;
            }
            _ => self.is_other = true,
        }
        let may_skip = self.is_other && self.unescape.is_between_escapes();
        Ok(if may_skip { NameStep::Other } else { NameStep::More })
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
    /// Reads the next byte. Returns the name after the closing quote.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<ModelName>, BodyError> {
        match self.unescape.push(byte)? {
            Unescaped::Incomplete => return Ok(None),
            Unescaped::Unit(unit) => self.push_unit(unit)?,
            Unescaped::Byte(_) | Unescaped::End if self.high_surrogate.is_some() => {
                return Err(BodyError::ModelCharacters);
            }
            Unescaped::Byte(byte) => self.decoded.push(byte),
            Unescaped::End => return ModelName::decoded(&self.decoded).map(Some),
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

/// State inside a string that is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StringState {
    /// The next byte is not escaped.
    Inside,
    /// The next byte is escaped.
    AfterBackslash,
    /// After the closing quote.
    Ended,
}

/// Number of consecutive blocks without a quote after which memchr takes over. It has a higher start-up cost, but is faster
/// for long strings.
const NEAR_BLOCKS: usize = 4;

/// Skips the content of a string up to and including its closing quote. Returns the number of bytes and the new state.
///
/// Searches only for quotes. The backslashes before a quote show whether it is escaped.
pub(crate) fn skip_string(bytes: &[u8], from: StringState) -> (usize, StringState) {
    let start = usize::from(from == StringState::AfterBackslash);
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
                return (start + quote + 1, StringState::Ended);
            }
            quotes &= quotes - 1;
        }
        at += BLOCK_BYTES;
    }
    while let Some(found) = memchr(b'"', &content[at..]) {
        let quote = at + found;
        if !is_escaped(content, quote) {
            return (start + quote + 1, StringState::Ended);
        }
        at = quote + 1;
    }
    (
        bytes.len(),
        if is_escaped(content, content.len()) { StringState::AfterBackslash } else { StringState::Inside },
    )
}

/// Whether the byte at `at` is escaped. The first byte of `content` is not.
fn is_escaped(content: &[u8], at: usize) -> bool {
    content[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// [`plain_string`] handles shorter strings than this.
const SHORT_BYTES: usize = BLOCK_BYTES;

/// The content of a short string without escapes that ends in `bytes`. `bytes` starts after the opening quote. `None` for
/// all other strings.
pub(crate) fn plain_string(bytes: &[u8]) -> Option<&[u8]> {
    let end = match bytes.first_chunk::<BLOCK_BYTES>() {
        Some(block) => quotes(block).trailing_zeros() as usize,
        None => memchr(b'"', bytes)?,
    };
    let content = bytes.get(..end).filter(|content| content.len() < SHORT_BYTES)?;
    (!content.contains(&b'\\')).then_some(content)
}
