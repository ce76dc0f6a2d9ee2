//! One direction of a connection.

use super::head::Line;

/// Where in a message a direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Phase(u8);

impl Phase {
    /// Between messages. Zero, so that a zeroed value is a fresh one.
    pub(super) const IDLE: Self = Self(0);
    pub(super) const START_LINE: Self = Self(1);
    pub(super) const HEADERS: Self = Self(2);
    /// `remaining` bytes of a body with Content-Length.
    pub(super) const SIZED_BODY: Self = Self(3);
    pub(super) const CHUNK_SIZE: Self = Self(4);
    pub(super) const CHUNK_EXTENSION: Self = Self(5);
    /// `remaining` bytes of a chunk, its CR LF included.
    pub(super) const CHUNK_DATA: Self = Self(6);
    pub(super) const TRAILERS: Self = Self(7);
    /// A body that ends with the connection.
    pub(super) const UNSIZED_BODY: Self = Self(8);
    /// Framing is lost.
    pub(super) const LOST: Self = Self(9);
}

/// Where a body's search for its first byte of content is: an SSE comment
/// (`: keep-alive`) is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Prelude(u8);

impl Prelude {
    pub(super) const LINE_START: Self = Self(0);
    pub(super) const COMMENT: Self = Self(1);
    /// Content was seen.
    pub(super) const OVER: Self = Self(2);
}

/// State of one direction; written by that direction only.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Half {
    /// Bytes of the body or chunk still to come.
    pub(super) remaining: u64,
    /// Value of Content-Length.
    pub(super) length: u64,
    /// When the last chunk with data started, CLOCK_BOOTTIME.
    pub(super) last_chunk_ns: u64,
    /// Sequence number of the next byte to look at.
    pub(super) next_seq: u32,
    /// Request: the method's first four bytes. Response: the status code.
    pub(super) token: u32,
    /// Response: which pending request it answers.
    pub(super) index: u32,
    /// How far a walk through a segment has come, and where it ends.
    pub(super) cursor: u32,
    pub(super) end: u32,
    /// Bytes of the start line seen, up to where it stops to matter.
    pub(super) position: u8,
    pub(super) sequence_known: u8,
    pub(super) phase: Phase,
    pub(super) line: Line,
    /// Bytes of a header name or value matched so far.
    pub(super) matched: u8,
    pub(super) chunked: u8,
    pub(super) sized: u8,
    pub(super) prelude: Prelude,
    /// The next byte is the first of a chunk.
    pub(super) chunk_start: u8,
    pub(super) reserved: [u8; 3],
    pub effects: Effects,
}

impl Half {
    /// A new message starts: nothing of the last one's framing remains.
    #[inline(always)]
    pub(super) fn begin_message(&mut self) {
        self.phase = Phase::START_LINE;
        self.position = 0;
        self.token = 0;
        self.remaining = 0;
        self.length = 0;
        self.chunked = 0;
        self.sized = 0;
        self.line = Line::START;
        self.prelude = Prelude::LINE_START;
        self.chunk_start = 0;
    }

    #[inline(always)]
    pub(super) fn lose(&mut self) {
        self.phase = Phase::LOST;
        self.effects.lost += 1;
    }
}

/// What one segment changed. Cleared before each segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Effects {
    /// Time to first content, when this segment brought it.
    pub ttft_ns: u64,
    /// Since the chunk before, when this segment started one.
    pub itl_ns: u64,
    /// Of the request that this segment finished; 0 if its end was not seen.
    pub duration_ns: u64,
    pub started: u32,
    pub finished: u32,
    pub aborted: u32,
    /// Requests that are not counted (no POST).
    pub other: u32,
    pub chunks: u32,
    pub responses_2xx: u32,
    pub responses_4xx: u32,
    pub responses_5xx: u32,
    /// 1 when the connection turned out to be no HTTP/1.1.
    pub opaque: u32,
    pub lost: u32,
    /// Payload bytes never seen before, with those of a gap that was stepped over.
    pub bytes: u32,
    /// Status of the response that this segment belongs to; 0 if unknown.
    pub status: u32,
}
