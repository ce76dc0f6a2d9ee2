use super::member::Member;

/// Maximum length of a `cache_salt`, in bytes of JSON. Engines accept 1,024 characters (vLLM). More bytes are ignored.
pub const MAX_CACHE_SALT_BYTES: usize = 4096;

/// Longest number that is read.
const NUMBER_BYTES: usize = 20;

/// Values of root members that are not part of the prompt.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) priority: Option<i64>,
    pub(super) stream: Option<bool>,
    pub(super) n: Option<u32>,
    pub(super) cache_salt: Option<Vec<u8>>,
}

impl Settings {
    /// Reads the scalar value of a member. The value that was read before is forgotten.
    pub(super) fn set(&mut self, member: Member, scalar: &Scalar) {
        match member {
            Member::MaxTokens => self.max_tokens = scalar.parse(),
            Member::MaxCompletionTokens => self.max_completion_tokens = scalar.parse(),
            Member::MaxOutputTokens => self.max_output_tokens = scalar.parse(),
            Member::Priority => self.priority = scalar.parse(),
            Member::Stream => self.stream = scalar.parse(),
            Member::N => self.n = scalar.parse(),
            _ => {}
        }
    }

    /// Forgets the value of a member.
    pub(super) fn clear(&mut self, member: Member) {
        self.set(member, &Scalar::default());
        if member == Member::CacheSalt {
            self.cache_salt = None;
        }
    }
}

/// A number or literal. Longer ones are not read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scalar {
    bytes: [u8; NUMBER_BYTES],
    length: usize,
}

impl Scalar {
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(next) = self.bytes.get_mut(self.length) {
            *next = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        str::from_utf8(self.bytes.get(..self.length)?).ok()?.parse().ok()
    }
}
