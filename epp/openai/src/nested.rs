//! Objects and arrays below the root, which are skipped.

use super::block::{BLOCK_BYTES, Block, escaped, marks, parity};
use super::string::{Skip, skip_string};
use super::{BodyError, MAX_DEPTH};

/// Depth of the root object.
const ROOT: u32 = 1;

/// A place in a value below the root.
#[derive(Clone, Copy, Debug)]
pub struct Nested {
    /// Open brackets, the root's included.
    depth: u32,
    /// [`Skip::Ended`] outside strings.
    string: Skip,
}

impl Nested {
    /// Behind the bracket that opens a member of the root.
    pub fn opened() -> Self {
        Self { depth: ROOT + 1, string: Skip::Ended }
    }

    /// Skips to behind the bracket that closes the value, and gives the bytes used; nothing if
    /// all of `bytes` were.
    pub fn skip(&mut self, bytes: &[u8]) -> Result<Option<usize>, BodyError> {
        let mut at = 0;
        loop {
            if self.string != Skip::Ended {
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

    /// From outside strings.
    fn skip_block(&mut self, block: &Block) -> Result<Option<usize>, BodyError> {
        let marks = marks(block);
        let (escaped, ends_in_escape) = escaped(marks.backslashes);
        let inside = parity(marks.quotes & !escaped);
        // A backslash outside strings is the engine's to refuse; it escapes nothing.
        if marks.backslashes & !inside != 0 {
            return self.skip_bytes(block);
        }
        let mut brackets = marks.brackets & !inside;
        while brackets != 0 {
            let at = brackets.trailing_zeros() as usize;
            if self.bracket(block[at])? {
                return Ok(Some(at + 1));
            }
            brackets &= brackets - 1;
        }
        if inside >> (BLOCK_BYTES - 1) == 1 {
            self.string = if ends_in_escape { Skip::AfterBackslash } else { Skip::Inside };
        }
        Ok(None)
    }

    /// The same, byte by byte.
    fn skip_bytes(&mut self, bytes: &[u8]) -> Result<Option<usize>, BodyError> {
        for (at, byte) in bytes.iter().enumerate() {
            self.string = match (self.string, byte) {
                (Skip::AfterBackslash, _) => Skip::Inside,
                (Skip::Inside, b'\\') => Skip::AfterBackslash,
                (Skip::Inside, b'"') => Skip::Ended,
                (Skip::Ended, b'"') => Skip::Inside,
                (Skip::Ended, b'{' | b'[' | b'}' | b']') => {
                    if self.bracket(*byte)? {
                        return Ok(Some(at + 1));
                    }
                    Skip::Ended
                }
                (unchanged, _) => unchanged,
            };
        }
        Ok(None)
    }

    /// Whether that was the end of the value.
    #[inline]
    fn bracket(&mut self, bracket: u8) -> Result<bool, BodyError> {
        /// Set in `{` and `[`, not set in `}` and `]`. Without a branch: which of them comes next, nobody can guess.
        const OPENS: u8 = 0b10;
        self.depth = self.depth + u32::from(bracket & OPENS) - 1;
        if self.depth > MAX_DEPTH {
            return Err(BodyError::TooDeep);
        }
        Ok(self.depth == ROOT)
    }
}
