use super::canonical::Canonical;
use super::chain::{Chain, MAX_PROMPT_BLOCKS, seeded_block};
use super::kind::RequestKind;
use super::member::{Member, NAME_BYTES};
use super::settings::{MAX_CACHE_SALT_BYTES, Scalar, Settings};
use crate::BodyError;
use crate::nested::NestedValue;
use crate::scanner::{before_root, is_scalar, is_whitespace};
use crate::string::{Name, NameStep, StringState, plain_string, skip_string};

/// Reads the features of a request from its JSON body. The body may be split at any byte.
///
/// It never fails: [`ModelScanner`](crate::ModelScanner) reads the same bytes and rejects a bad body. On malformed JSON it
/// stops and keeps what it had, without the member that it was reading. It checks the syntax of the root object and the depth
/// of its members, not the syntax of nested values. It does not recurse.
///
/// Memory: 8 bytes of hash for each [block](super::PROMPT_BLOCK_BYTES) of the body (16 while the list grows), at most
/// [`MAX_PROMPT_BLOCKS`] hashes for each member that [`RequestKind`] lists, and about 6 KiB.
///
/// Of several members with one name the last one counts, as in the engines.
///
/// # Examples
///
/// ```
/// use forebay_openai::{PromptScanner, RequestKind};
///
/// let mut scanner = PromptScanner::new(RequestKind::Completions);
/// scanner.feed(br#"{"max_tokens": 7, "prompt": ["#);
/// scanner.feed(br#" "once upon a time" ], "stream": true}"#);
/// scanner.finish();
/// assert_eq!(scanner.prompt_bytes(), r#"["once upon a time"]"#.len() as u64);
/// assert_eq!((scanner.max_tokens(), scanner.stream()), (Some(7), Some(true)));
/// assert!(scanner.is_complete() && scanner.turn_blocks().is_empty());
/// ```
#[derive(Debug)]
pub struct PromptScanner {
    kind: RequestKind,
    state: State,
    /// The body has ended.
    is_ended: bool,
    /// Members of the prompt that were read, in the order of the body.
    chains: Vec<(Member, Chain)>,
    canonical: Canonical,
    settings: Settings,
}

#[derive(Debug)]
enum State {
    /// Before the root object. `seen`: bytes of a byte order mark so far.
    Start {
        seen: u8,
    },
    FirstKeyOrEnd,
    Key,
    InKey(Name<NAME_BYTES>),
    /// In an unknown key.
    SkipKey(StringState),
    Colon(Member),
    Value(Member),
    InValue(Member, Extent),
    InSalt(Vec<u8>, StringState),
    Scalar(Member, Scalar),
    AfterValue,
    Finished,
    /// After a syntax error.
    Stopped,
}

/// Where a string, object or array ends.
#[derive(Clone, Copy, Debug)]
enum Extent {
    Text(StringState),
    Nested(NestedValue),
}

impl Extent {
    /// The number of bytes that belong to the value, and whether it ends with them.
    fn skip(&mut self, bytes: &[u8]) -> Result<(usize, bool), BodyError> {
        match self {
            Self::Text(string) => {
                let (used, end) = skip_string(bytes, *string);
                *string = end;
                Ok((used, end == StringState::Ended))
            }
            Self::Nested(nested) => {
                let end = nested.skip(bytes)?;
                Ok((end.unwrap_or(bytes.len()), end.is_some()))
            }
        }
    }
}

impl PromptScanner {
    /// A scanner for the body of a request of this kind.
    pub fn new(kind: RequestKind) -> Self {
        Self {
            kind,
            state: State::Start { seen: 0 },
            is_ended: false,
            chains: Vec::new(),
            canonical: Canonical::default(),
            settings: Settings::default(),
        }
    }

    /// Reads the next bytes of the body, split anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(rest) {
                Ok(used) => rest = &rest[used..],
                Err(_) => return self.stop(),
            }
        }
    }

    /// Says that the body has ended.
    pub fn finish(&mut self) {
        self.is_ended = true;
    }

    /// The kind of the request.
    pub fn kind(&self) -> RequestKind {
        self.kind
    }

    /// Whether the root object was read to its end. False while the body is incomplete, and after malformed JSON.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Whether the context can no longer change. A member of the context may follow until the root object ends; kinds that
    /// have no such members know it from the start.
    pub fn context_is_known(&self) -> bool {
        let may_follow = !matches!(self.state, State::Finished | State::Stopped);
        self.kind.context().is_empty() || self.is_ended || !may_follow
    }

    /// The block hashes of the context so far, at most [`MAX_PROMPT_BLOCKS`]. Final once [`Self::context_is_known`].
    pub fn context_blocks(&self) -> impl Iterator<Item = u64> {
        let mut seed = 0;
        self.context()
            .flat_map(move |chain| {
                let before = seed;
                seed = seeded_block(seed, chain.digest());
                chain.hashes().iter().map(move |hash| seeded_block(before, *hash))
            })
            .take(MAX_PROMPT_BLOCKS)
    }

    /// Hash of the whole context so far, with its incomplete blocks. 0 without context.
    pub fn context_digest(&self) -> u64 {
        self.context().fold(0, |seed, chain| seeded_block(seed, chain.digest()))
    }

    /// The block hashes of the turns so far, at most [`MAX_PROMPT_BLOCKS`].
    pub fn turn_blocks(&self) -> &[u64] {
        self.turns().map_or(&[], Chain::hashes)
    }

    /// Canonical bytes of the context and the turns so far, without the content of media.
    pub fn prompt_bytes(&self) -> u64 {
        self.prompt().map(Chain::bytes).sum()
    }

    /// Images, recordings and files in the prompt so far, by value and not by URL.
    pub fn media_items(&self) -> u32 {
        self.prompt().map(|chain| chain.media_items).fold(0, u32::saturating_add)
    }

    /// Bytes of media in the prompt so far, as they are written: for base64 4/3 of their size.
    pub fn media_bytes(&self) -> u64 {
        self.prompt().map(|chain| chain.media_bytes).sum()
    }

    /// Maximum number of output tokens: `max_completion_tokens`, else `max_tokens`, else `max_output_tokens`.
    pub fn max_tokens(&self) -> Option<u32> {
        let settings = &self.settings;
        settings.max_completion_tokens.or(settings.max_tokens).or(settings.max_output_tokens)
    }

    /// `priority` of vLLM: lower is earlier.
    pub fn priority(&self) -> Option<i64> {
        self.settings.priority
    }

    /// `stream`.
    pub fn stream(&self) -> Option<bool> {
        self.settings.stream
    }

    /// `n`: number of answers.
    pub fn n(&self) -> Option<u32> {
        self.settings.n
    }

    /// `cache_salt` of vLLM as it is written in the body, escapes included, at most [`MAX_CACHE_SALT_BYTES`]. It is a
    /// secret of the client: use it in [`prompt_seed`](super::prompt_seed) only.
    pub fn cache_salt(&self) -> Option<&[u8]> {
        self.settings.cache_salt.as_deref()
    }

    fn chain(&self, member: Member) -> Option<&Chain> {
        self.chains.iter().find(|(other, _)| *other == member).map(|(_, chain)| chain)
    }

    fn context(&self) -> impl Iterator<Item = &Chain> {
        self.kind.context().iter().filter_map(|member| self.chain(*member))
    }

    fn turns(&self) -> Option<&Chain> {
        self.kind.turns().iter().find_map(|member| self.chain(*member))
    }

    fn prompt(&self) -> impl Iterator<Item = &Chain> {
        self.context().chain(self.turns())
    }

    /// Returns the number of bytes consumed, which may be none if the state changes. `bytes` must not be empty.
    // Longer than the limit: one arm per state of the parser, in one function for the speed of the hot path.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let byte = bytes[0];
        match &mut self.state {
            State::Finished | State::Stopped => return Ok(bytes.len()),
            State::InValue(..) => return self.in_value(bytes, 0),
            State::InSalt(salt, at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                let is_ended = end == StringState::Ended;
                let content = &bytes[..used - usize::from(is_ended)];
                salt.extend_from_slice(&content[..content.len().min(MAX_CACHE_SALT_BYTES - salt.len())]);
                if is_ended {
                    self.settings.cache_salt = Some(std::mem::take(salt));
                    self.state = State::AfterValue;
                }
                return Ok(used);
            }
            State::SkipKey(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == StringState::Ended {
                    self.state = State::Colon(Member::Other);
                }
                return Ok(used);
            }
            State::InKey(name) => match name.push(byte)? {
                NameStep::More => {}
                NameStep::Other => self.state = State::SkipKey(StringState::Inside),
                NameStep::End(name) => self.state = State::Colon(Member::of(name)),
            },
            State::Scalar(_, scalar) if is_scalar(byte) => scalar.push(byte),
            State::Scalar(member, scalar) => {
                let (member, scalar) = (*member, *scalar);
                self.settings.set(member, &scalar);
                self.state = State::AfterValue;
                return Ok(0);
            }
            State::Start { seen } => {
                self.state = match before_root(byte, *seen)? {
                    Some(seen) => State::Start { seen },
                    None => State::FirstKeyOrEnd,
                };
            }
            _ if is_whitespace(byte) => {}
            State::FirstKeyOrEnd if byte == b'}' => self.state = State::Finished,
            State::FirstKeyOrEnd | State::Key if byte == b'"' => {
                if let Some(name) = plain_string(&bytes[1..]) {
                    self.state = State::Colon(Member::of(name));
                    return Ok(name.len() + 2);
                }
                self.state = State::InKey(Name::default());
            }
            State::Colon(member) if byte == b':' => self.state = State::Value(*member),
            State::Value(member) => {
                let member = *member;
                return self.value(bytes, member);
            }
            State::AfterValue if byte == b',' => self.state = State::Key,
            State::AfterValue if byte == b'}' => self.state = State::Finished,
            State::FirstKeyOrEnd | State::Key | State::Colon(_) | State::AfterValue => {
                return Err(BodyError::Malformed("expected another token"));
            }
        }
        Ok(1)
    }

    /// Reads from the first byte of a value.
    fn value(&mut self, bytes: &[u8], member: Member) -> Result<usize, BodyError> {
        // Of several members with one name the last one counts.
        self.chains.retain(|(other, _)| *other != member);
        self.settings.clear(member);
        let extent = match bytes[0] {
            b'"' if member == Member::CacheSalt => {
                self.state = State::InSalt(Vec::new(), StringState::Inside);
                return Ok(1);
            }
            b'"' => Extent::Text(StringState::Inside),
            b'{' | b'[' => Extent::Nested(NestedValue::opened()),
            // As a prompt it is `null`, or invalid.
            byte if is_scalar(byte) => {
                self.state = State::Scalar(member, Scalar::default());
                return Ok(0);
            }
            _ => return Err(BodyError::Malformed("expected a value")),
        };
        self.state = State::InValue(member, extent);
        if self.kind.turns().contains(&member) {
            self.chains.push((member, Chain::new(0)));
            self.canonical = Canonical::default();
        } else if self.kind.context().contains(&member) {
            // Equal values of different members differ.
            self.chains.push((member, Chain::new(1 + member as u64)));
            self.canonical = Canonical::default();
        }
        self.in_value(bytes, 1)
    }

    /// Reads a string, object or array, of which the first `opened` bytes are known to belong to it.
    fn in_value(&mut self, bytes: &[u8], opened: usize) -> Result<usize, BodyError> {
        let State::InValue(member, extent) = &mut self.state else { return Ok(0) };
        let member = *member;
        let (used, is_ended) = extent.skip(&bytes[opened..])?;
        let used = opened + used;
        if is_ended {
            self.state = State::AfterValue;
        }
        // The chain that is being read is the last one.
        if let Some((_, chain)) = self.chains.last_mut().filter(|(last, _)| *last == member) {
            self.canonical.feed(&bytes[..used], chain);
        }
        Ok(used)
    }

    /// After malformed JSON. What was read of a value depends on the split, so it is dropped.
    fn stop(&mut self) {
        if let State::InValue(member, _) = self.state {
            self.chains.retain(|(other, _)| *other != member);
        }
        self.state = State::Stopped;
    }
}
