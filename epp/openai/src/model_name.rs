use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

use super::{BodyError, MAX_MODEL_NAME_BYTES};

/// The model name that a client sent, decoded, and valid in a header.
///
/// It has 1 to [`MAX_MODEL_NAME_BYTES`] bytes of UTF-8, no control or invisible characters, and no leading or trailing
/// space: recipients strip those from header values (RFC 9110 §5.5), which would change the name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ModelName(Bytes);

impl ModelName {
    /// Parses a name from another source than a body. `None` if it is invalid.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::decoded(name).ok()
    }

    /// Checks a decoded name.
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

    /// The name.
    pub fn as_str(&self) -> &str {
        // Always valid: checked in `decoded`.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The name as a header value, without copying.
    pub fn to_header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.0.clone()).ok()
    }
}

/// Control characters, whitespace other than U+0020, and characters without a glyph.
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
