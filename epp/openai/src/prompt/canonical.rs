//! Reduces a JSON value to its canonical bytes: no whitespace between tokens, digests in place of media.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::chain::Chain;
use crate::block::{BLOCK_BYTES, Block, escaped, parity, text_masks};
use crate::string::{StringState, skip_string};

/// Reads one JSON value, split at any byte.
#[derive(Debug, Default)]
pub(super) struct Canonical {
    state: State,
    media: Option<Media>,
}

/// Hashes the content of one image, recording or file. On the heap: it is large, and most prompts have none.
struct Media(Box<Xxh3>);

impl Media {
    fn new() -> Self {
        Self(Box::new(Xxh3::new()))
    }
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media").finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum State {
    /// Between strings.
    Outside(Before),
    /// After an opening quote, which is not passed on. The bytes do not show yet what the string is.
    Head(Head),
    Text(StringState),
    /// In the string `data`, which may be a name.
    DataName(StringState),
    Media(StringState),
}

impl Default for State {
    fn default() -> Self {
        Self::Outside(Before::Other)
    }
}

/// What is before the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// The string `data`.
    DataName,
    /// The string `data` and a colon.
    DataColon,
    Other,
}

/// Bytes of a string that decide whether it is media.
const HEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Head {
    bytes: [u8; HEAD_BYTES],
    length: usize,
    may_be_base64: bool,
}

/// The bytes of a call, and those of them that are not passed on yet.
struct Run<'a> {
    bytes: &'a [u8],
    from: usize,
    chain: &'a mut Chain,
}

impl Run<'_> {
    /// Passes on the bytes before `to`, and leaves out those from there up to `next`.
    fn cut(&mut self, to: usize, next: usize) {
        if self.from < to {
            self.chain.push(&self.bytes[self.from..to]);
        }
        self.from = next;
    }
}

impl Canonical {
    /// Reads the next bytes of the value.
    pub(super) fn feed(&mut self, bytes: &[u8], chain: &mut Chain) {
        let mut run = Run { bytes, from: 0, chain };
        let mut at = 0;
        while at < bytes.len() {
            at = self.step(&mut run, at);
        }
        run.cut(at, at);
    }

    /// Reads from `at`. Returns the position after what was read.
    fn step(&mut self, run: &mut Run<'_>, at: usize) -> usize {
        match &mut self.state {
            State::Outside(before) => {
                let before = *before;
                self.outside(run, at, before)
            }
            State::Head(head) => {
                let (text, head_bytes) = match head.classify_with(&run.bytes[at..]) {
                    Some(text) => (text, &head.bytes[..head.length]),
                    None => return Self::end_in_head(run),
                };
                match text {
                    Text::Media => {
                        let mut media = Media::new();
                        media.0.update(head_bytes);
                        run.chain.media_bytes += head_bytes.len() as u64;
                        self.media = Some(media);
                    }
                    Text::Plain | Text::DataName => {
                        run.chain.push(b"\"");
                        run.chain.push(head_bytes);
                    }
                }
                self.state = text.begun();
                at
            }
            State::Text(string) | State::DataName(string) => {
                let (used, end) = skip_string(&run.bytes[at..], *string);
                *string = end;
                if end == StringState::Ended {
                    let is_data = matches!(self.state, State::DataName(_));
                    self.state = State::Outside(if is_data { Before::DataName } else { Before::Other });
                }
                at + used
            }
            State::Media(string) => {
                let (used, end) = skip_string(&run.bytes[at..], *string);
                *string = end;
                let is_ended = end == StringState::Ended;
                self.media_content(run, at, used - usize::from(is_ended));
                if is_ended {
                    self.end_media(run.chain);
                }
                run.from = at + used;
                at + used
            }
        }
    }

    fn end_in_head(run: &mut Run<'_>) -> usize {
        run.from = run.bytes.len();
        run.from
    }

    fn media_content(&mut self, run: &mut Run<'_>, at: usize, length: usize) {
        run.chain.media_bytes += length as u64;
        self.media.get_or_insert_with(Media::new).0.update(&run.bytes[at..at + length]);
    }

    fn end_media(&mut self, chain: &mut Chain) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digest = self.media.take().map_or(0, |media| media.0.digest()).to_be_bytes();
        let mut hex = [0; 16];
        for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
        }
        chain.push(&hex);
        chain.media_items += 1;
        self.state = State::default();
    }

    /// Reads tokens between strings, and whole strings where a block shows that they are text.
    fn outside(&mut self, run: &mut Run<'_>, at: usize, before: Before) -> usize {
        let rest = &run.bytes[at..];
        match rest.first_chunk::<BLOCK_BYTES>() {
            // A string at the end of the block shows its first bytes behind it.
            Some(block) if before == Before::Other && rest.len() >= BLOCK_BYTES + DATA.len() => {
                self.outside_block(run, at, block)
            }
            _ => self.outside_bytes(run, at, run.bytes.len(), before),
        }
    }

    /// Reads byte by byte, up to `end` or the next string.
    fn outside_bytes(&mut self, run: &mut Run<'_>, at: usize, end: usize, mut before: Before) -> usize {
        for at in at..end {
            match (run.bytes[at], before) {
                (b'"', _) => return self.open(run, at, before == Before::DataColon),
                (..=b' ', _) => run.cut(at, at + 1),
                (b':', Before::DataName) => before = Before::DataColon,
                _ => before = Before::Other,
            }
        }
        self.state = State::Outside(before);
        end
    }

    /// Reads a block, up to a string that may be media.
    fn outside_block(&mut self, run: &mut Run<'_>, at: usize, block: &Block) -> usize {
        let masks = text_masks(block);
        let (escaped, ends_in_escape) = escaped(masks.backslashes);
        let quotes = masks.quotes & !escaped;
        let inside = parity(quotes);
        // A backslash outside strings is invalid and escapes nothing.
        if masks.backslashes & !inside != 0 {
            return self.outside_bytes(run, at, at + BLOCK_BYTES, Before::Other);
        }
        let data = first_data(&run.bytes[at..], quotes & inside);
        let mut blanks = masks.blanks & !inside;
        if let Some(data) = data {
            blanks &= (1 << data) - 1;
        }
        while blanks != 0 {
            let from = blanks.trailing_zeros();
            let length = (blanks >> from).trailing_ones();
            run.cut(at + from as usize, at + (from + length) as usize);
            // In two steps: a shift by 64 is not defined.
            blanks &= (u64::MAX << from) << (length - 1) << 1;
        }
        if let Some(data) = data {
            return self.open(run, at + data, false);
        }
        if inside >> (BLOCK_BYTES - 1) == 1 {
            let string = if ends_in_escape { StringState::AfterBackslash } else { StringState::Inside };
            self.state = State::Text(string);
        }
        at + BLOCK_BYTES
    }

    /// Opens the string whose quote is at `at`.
    fn open(&mut self, run: &mut Run<'_>, at: usize, may_be_base64: bool) -> usize {
        let content = &run.bytes[at + 1..];
        let mut head = Head { bytes: [0; HEAD_BYTES], length: 0, may_be_base64 };
        match head.classify_with(content) {
            Some(text) => {
                if text == Text::Media {
                    run.cut(at, at + 1);
                }
                self.state = text.begun();
                at + 1
            }
            None => {
                run.cut(at, at);
                self.state = State::Head(head);
                Self::end_in_head(run)
            }
        }
    }
}

/// The first of these opening quotes that [`DATA`] follows.
#[inline]
fn first_data(bytes: &[u8], mut opening: u64) -> Option<usize> {
    while opening != 0 {
        let at = opening.trailing_zeros() as usize;
        if bytes[at + 1..].starts_with(DATA) {
            return Some(at);
        }
        opening &= opening - 1;
    }
    None
}

/// Begins both a data URL and the name of a member with base64.
const DATA: &[u8] = b"data";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Plain,
    DataName,
    Media,
}

impl Text {
    /// After the first bytes of the string.
    fn begun(self) -> State {
        match self {
            Self::Plain => State::Text(StringState::Inside),
            Self::DataName => State::DataName(StringState::Inside),
            Self::Media => State::Media(StringState::Inside),
        }
    }
}

impl Head {
    /// What the string is, according to the bytes so far and `next`. Keeps `next` if it must see more.
    fn classify_with(&mut self, next: &[u8]) -> Option<Text> {
        if self.length == 0 {
            let known = classify(&next[..next.len().min(HEAD_BYTES)], self.may_be_base64);
            if known.is_some() {
                return known;
            }
        }
        let taken = next.len().min(HEAD_BYTES - self.length);
        self.bytes[self.length..][..taken].copy_from_slice(&next[..taken]);
        let length = self.length + taken;
        let known = classify(&self.bytes[..length], self.may_be_base64);
        if known.is_none() {
            self.length = length;
        }
        known
    }
}

/// What a string is whose content begins with `head`. `None` if more bytes may change the answer.
fn classify(head: &[u8], may_be_base64: bool) -> Option<Text> {
    match (head.strip_prefix(DATA), may_be_base64) {
        (Some([b':', ..]), _) => Some(Text::Media),
        (Some([b'"', ..]), _) => Some(Text::DataName),
        (Some([]), _) => None,
        (None, false) if DATA.starts_with(head) => None,
        (_, false) => Some(Text::Plain),
        (_, true) if !head.iter().all(|byte| is_base64(*byte)) => Some(Text::Plain),
        (_, true) => (head.len() == HEAD_BYTES).then_some(Text::Media),
    }
}

/// A character of base64 or base64url (RFC 4648 §4, §5).
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}
