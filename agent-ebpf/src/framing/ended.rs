//! How one request ended, and the counts of its response.

/// Bits of [`Ended::known`].
pub mod known {
    /// [`duration_ns`](super::Ended::duration_ns)
    pub const DURATION: u8 = 1 << 0;
    /// [`ttft_ns`](super::Ended::ttft_ns): content was sent.
    pub const TTFT: u8 = 1 << 1;
    /// [`response_bytes`](super::Ended::response_bytes)
    pub const BYTES: u8 = 1 << 2;
    /// [`response_chunks`](super::Ended::response_chunks)
    pub const CHUNKS: u8 = 1 << 3;
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(u8);

impl Outcome {
    /// No request ended.
    pub const NONE: Self = Self(0);
    /// Its response is complete.
    pub const FINISHED: Self = Self(1);
    /// It ended before its response did.
    pub const ABORTED: Self = Self(2);
}

/// A POST request that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ended {
    /// First request byte to the last response byte, or to the abort.
    pub duration_ns: u64,
    /// First request byte to the first content byte of the response.
    pub ttft_ns: u64,
    /// Head and body of the final response as sent, without retransmits.
    pub response_bytes: u64,
    /// Chunks with data. 0 for a response without chunked coding.
    pub response_chunks: u32,
    /// Status of the final response; 0 if it is not known or was not sent.
    pub status: u16,
    /// Bits of [`known`]: the values that are known. Others are 0.
    pub known: u8,
    /// Whether a request ended, and how.
    pub outcome: Outcome,
}

impl Ended {
    /// See [`Effects::clear`](super::Effects). `zero`: 0.
    #[inline(always)]
    pub(super) fn clear(&mut self, zero: u32) {
        let wide = u64::from(zero);
        let Self { duration_ns, ttft_ns, response_bytes, response_chunks, status, known, outcome } = self;
        (*duration_ns, *ttft_ns, *response_bytes) = (wide, wide, wide);
        (*response_chunks, *status, *known, *outcome) = (zero, zero as u16, zero as u8, Outcome(zero as u8));
    }
}

/// The response that is being sent. Written by egress.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Reply {
    /// Bytes sent on the connection, up to the end of the last segment.
    pub(super) sent_bytes: u64,
    /// `sent_bytes` at the start of this response.
    start_bytes: u64,
    pub(super) ttft_ns: u64,
    pub(super) chunks: u32,
    pub(super) status: u16,
    /// Not 0 if content was sent.
    pub(super) has_content: u8,
    reserved: u8,
}

impl Reply {
    /// Starts a response `unread` bytes before the end of the last segment.
    #[inline(always)]
    pub(super) fn begin(&mut self, unread: u32) {
        self.start_bytes = self.sent_bytes.wrapping_sub(u64::from(unread));
        self.ttft_ns = 0;
        self.chunks = 0;
        self.status = 0;
        self.has_content = 0;
    }

    /// The counts of this response up to `unread` bytes before the end of the last segment. Chunks are not known after
    /// framing was lost (`is_lost`).
    #[inline(always)]
    pub(super) fn ended(&self, outcome: Outcome, unread: u32, is_lost: bool, duration_ns: u64) -> Ended {
        let mut known = known::DURATION | known::BYTES;
        if !is_lost {
            known |= known::CHUNKS;
        }
        if self.has_content != 0 {
            known |= known::TTFT;
        }
        let sent = self.sent_bytes.wrapping_sub(u64::from(unread));
        Ended {
            duration_ns,
            ttft_ns: self.ttft_ns,
            // The other direction may read this while a response starts.
            response_bytes: sent.saturating_sub(self.start_bytes),
            response_chunks: if is_lost { 0 } else { self.chunks },
            status: self.status,
            known,
            outcome,
        }
    }
}
