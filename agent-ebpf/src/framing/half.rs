//! State of one direction of a connection.

use core::hint::black_box;

use super::ended::Ended;

/// Position within a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Phase(u8);

impl Phase {
    /// Between messages. Zero, so that zeroed memory is a new connection.
    pub(super) const IDLE: Self = Self(0);
    pub(super) const START_LINE: Self = Self(1);
    pub(super) const HEADERS: Self = Self(2);
    /// `remaining` bytes of a body with Content-Length are left.
    pub(super) const SIZED_BODY: Self = Self(3);
    pub(super) const CHUNK_SIZE: Self = Self(4);
    pub(super) const CHUNK_EXTENSION: Self = Self(5);
    /// `remaining` bytes of a chunk are left, including its CR LF.
    pub(super) const CHUNK_DATA: Self = Self(6);
    pub(super) const TRAILERS: Self = Self(7);
    /// The body ends with the connection (RFC 9112 §6.3, rule 8).
    pub(super) const UNSIZED_BODY: Self = Self(8);
    /// Framing is lost. See [`Half::lose_framing`].
    pub(super) const LOST: Self = Self(9);

    /// Returns whether further bytes of the message are content. After a chunk its first byte decides.
    #[inline(always)]
    pub(super) fn is_within_content(self) -> bool {
        self == Self::SIZED_BODY || self == Self::UNSIZED_BODY || self == Self::LOST
    }
}

/// Position in the search for the first content byte of a body. An SSE comment (`: keep-alive`) is not content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Prelude(u8);

impl Prelude {
    pub(super) const LINE_START: Self = Self(0);
    pub(super) const COMMENT: Self = Self(1);
    /// Content was found.
    pub(super) const OVER: Self = Self(2);
}

/// Position within a header line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Line(u8);

impl Line {
    pub(super) const START: Self = Self(0);
    /// The rest of the line does not matter.
    pub(super) const SKIP: Self = Self(1);
    pub(super) const NAME_CONTENT_LENGTH: Self = Self(2);
    pub(super) const NAME_TRANSFER_ENCODING: Self = Self(3);
    pub(super) const VALUE_CONTENT_LENGTH: Self = Self(4);
    pub(super) const VALUE_TRANSFER_ENCODING: Self = Self(5);
    /// After the CR of the empty line.
    pub(super) const BLANK: Self = Self(6);
}

/// State of one direction. Only that direction writes it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Half {
    /// Bytes left of the body or chunk.
    pub(super) remaining: u64,
    /// Value of Content-Length.
    pub(super) length: u64,
    /// Start of the last chunk with data, CLOCK_BOOTTIME.
    pub(super) last_chunk_ns: u64,
    /// Sequence number of the next new byte.
    pub(super) next_seq: u32,
    /// Request: first four bytes of the method. Response: the status code.
    pub(super) token: u32,
    /// Response: number of the request that it answers.
    pub(super) index: u32,
    /// Progress of the walk through a segment, and its end.
    pub(super) cursor: u32,
    pub(super) end: u32,
    /// Request: bytes of the current message that are not yet added to its pending entry.
    pub(super) unrecorded_bytes: u32,
    /// Bytes of the start line seen, up to the last one that matters.
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
    /// Response: a body byte was seen.
    pub(super) body_started: u8,
    /// Response: its request is a POST.
    pub(super) counted: u8,
    pub(super) reserved: [u8; 5],
    /// What the last segment of this direction changed.
    pub effects: Effects,
}

impl Half {
    /// Starts a new message and resets the framing state of the last one.
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
        self.body_started = 0;
        self.unrecorded_bytes = 0;
    }

    /// Bytes of the segment from the current step on.
    #[inline(always)]
    pub(super) fn unread(&self) -> u32 {
        self.end.wrapping_sub(self.cursor)
    }

    /// Gives up on the current message. The direction recovers at the next segment that looks like a message start.
    #[inline(always)]
    pub(super) fn lose_framing(&mut self) {
        self.phase = Phase::LOST;
        self.effects.lost += 1;
    }
}

/// What one segment changed. Reset before each segment of the direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Effects {
    /// Time to first content, if this segment contains the first content byte.
    pub ttft_ns: u64,
    /// Time since the previous chunk of a response to POST, if this segment starts a chunk.
    pub itl_ns: u64,
    /// Change of the bytes that wait for a response: received minus answered or ended.
    pub waiting_bytes: i64,
    /// The first of the requests that this segment ended of which values are known. Several end in one segment only with
    /// pipelining.
    pub ended: Ended,
    /// POST requests started.
    pub started: u32,
    /// POST requests whose response is complete.
    pub finished: u32,
    /// POST requests that ended before their response did.
    pub aborted: u32,
    /// Requests with another method.
    pub other: u32,
    /// Chunks with data of responses to POST.
    pub chunks: u32,
    /// Responses to POST with status 2xx.
    pub responses_2xx: u32,
    /// Responses to POST with status 4xx.
    pub responses_4xx: u32,
    /// Responses to POST with status 5xx.
    pub responses_5xx: u32,
    /// 1 if this segment showed that the connection is not HTTP/1.1.
    pub opaque: u32,
    /// Times that framing was lost.
    pub lost: u32,
    /// New payload bytes, including those of a gap that was stepped over.
    pub bytes: u32,
}

impl Effects {
    /// Sets everything to 0. The compiler must not see the value: it would call `memset`, which is a loop over bytes in a
    /// BPF program.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        let zero = black_box(0_u32);
        let wide = u64::from(zero);
        let count = |counter: &mut u32| *counter = zero;
        let Self {
            ttft_ns,
            itl_ns,
            waiting_bytes,
            ended,
            started,
            finished,
            aborted,
            other,
            chunks,
            responses_2xx,
            responses_4xx,
            responses_5xx,
            opaque,
            lost,
            bytes,
        } = self;
        (*ttft_ns, *itl_ns, *waiting_bytes) = (wide, wide, wide as i64);
        ended.clear(zero);
        [started, finished, aborted, other, chunks].into_iter().for_each(count);
        [responses_2xx, responses_4xx, responses_5xx, opaque, lost, bytes].into_iter().for_each(count);
    }
}
