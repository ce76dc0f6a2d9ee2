use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

use super::BodyError;

/// Longest model name taken, in bytes after decoding.
pub const MAX_MODEL_NAME_BYTES: usize = 512;

/// A model name as the client sent it, decoded, and safe to put in a header:
/// 1 to [`MAX_MODEL_NAME_BYTES`] bytes of UTF-8 without control or invisible
/// characters and without blanks at its ends (a header's ends are trimmed on
/// the way, which would turn one name into another).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ModelName(Bytes);

impl ModelName {
    /// Checks a name that stands somewhere else than in a body.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::decoded(name).ok()
    }

    pub(super) fn decoded(name: &[u8]) -> Result<Self, BodyError> {
        if name.is_empty() {
            return Err(BodyError::ModelEmpty);
        }
        if name.len() > MAX_MODEL_NAME_BYTES {
            return Err(BodyError::ModelTooLong);
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            let name = str::from_utf8(name).map_err(|_| BodyError::ModelCharacters)?;
            if name.starts_with(' ') || name.ends_with(' ') || name.chars().any(is_invisible) {
                return Err(BodyError::ModelCharacters);
            }
        }
        Ok(Self(Bytes::copy_from_slice(name)))
    }

    pub fn as_str(&self) -> &str {
        // Checked when it was built; the fallback is never taken.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The name as a header value; shares the bytes.
    pub fn to_header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.0.clone()).ok()
    }
}

/// Controls, every blank but the plain space, and the characters that render as nothing.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
