//! Skips objects and arrays below the root.

use super::block::{BLOCK_BYTES, Block, escaped, masks, parity};
use super::string::{StringState, skip_string};
use super::{BodyError, MAX_DEPTH};

/// Depth of the root object.
const ROOT: u32 = 1;

/// State inside an object or array below the root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NestedValue {
    /// Number of open brackets, including the root's.
    depth: u32,
    /// [`StringState::Ended`] outside strings.
    string: StringState,
}

impl NestedValue {
    /// After the opening bracket of a member of the root.
    pub(crate) fn opened() -> Self {
        Self { depth: ROOT + 1, string: StringState::Ended }
    }

    /// Skips to the end of the value. Returns the number of bytes up to and including the closing bracket, or `None` if the
    /// value does not end in `bytes`.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> Result<Option<usize>, BodyError> {
        let mut at = 0;
        loop {
            if self.string != StringState::Ended {
                let (used, end) = skip_string(&bytes[at..], self.string);
                self.string = end;
                at += used;
            }
            let end = match bytes[at..].first_chunk::<BLOCK_BYTES>() {
                Some(block) => self.skip_block(block)?,
                None => return Ok(self.skip_bytes(&bytes[at..])?.map(|end| at + end)),
            };
            if let Some(end) = end {
                return Ok(Some(at + end));
            }
            at += BLOCK_BYTES;
        }
    }

    /// Skips a block that starts outside a string.
    fn skip_block(&mut self, block: &Block) -> Result<Option<usize>, BodyError> {
        let masks = masks(block);
        let (escaped, ends_in_escape) = escaped(masks.backslashes);
        let inside = parity(masks.quotes & !escaped);
        // A backslash outside strings is invalid and escapes nothing. The engine rejects it.
        if masks.backslashes & !inside != 0 {
            return self.skip_bytes(block);
        }
        let mut brackets = masks.brackets & !inside;
        while brackets != 0 {
            let at = brackets.trailing_zeros() as usize;
            if self.bracket(block[at])? {
                return Ok(Some(at + 1));
            }
            brackets &= brackets - 1;
        }
        if inside >> (BLOCK_BYTES - 1) == 1 {
            self.string = if ends_in_escape { StringState::AfterBackslash } else { StringState::Inside };
        }
        Ok(None)
    }

    /// Skips byte by byte.
    fn skip_bytes(&mut self, bytes: &[u8]) -> Result<Option<usize>, BodyError> {
        for (at, byte) in bytes.iter().enumerate() {
            self.string = match (self.string, byte) {
                (StringState::AfterBackslash, _) => StringState::Inside,
                (StringState::Inside, b'\\') => StringState::AfterBackslash,
                (StringState::Inside, b'"') => StringState::Ended,
                (StringState::Ended, b'"') => StringState::Inside,
                (StringState::Ended, b'{' | b'[' | b'}' | b']') => {
                    if self.bracket(*byte)? {
                        return Ok(Some(at + 1));
                    }
                    StringState::Ended
                }
                (unchanged, _) => unchanged,
            };
        }
        Ok(None)
    }

    /// Counts a bracket. Returns whether it closes the value.
    #[inline]
    fn bracket(&mut self, bracket: u8) -> Result<bool, BodyError> {
        /// Bit that is set in `{` and `[` but not in `}` and `]`. Avoids a branch that would be mispredicted often.
        const OPENS: u8 = 0b10;
        self.depth = self.depth + u32::from(bracket & OPENS) - 1;
        if self.depth > MAX_DEPTH {
            return Err(BodyError::TooDeep);
        }
        Ok(self.depth == ROOT)
    }
}
