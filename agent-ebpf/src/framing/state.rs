//! State of one TCP connection.

use super::{
    ended::Reply,
    half::{Half, Phase, Prelude},
    pending::Pending,
};

/// Maximum requests without a complete response per connection (pipelining). Beyond that the connection is opaque.
pub const MAX_PENDING: u32 = 8;

/// Return value of a step: ignore the rest of the segment.
pub(super) const SKIP_SEGMENT: u32 = u32::MAX;

/// The fields of a TCP segment that framing uses, besides the payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number of the first payload byte.
    pub seq: u32,
    /// Payload bytes.
    pub length: u32,
    /// The FIN flag.
    pub fin: bool,
    /// The RST flag.
    pub rst: bool,
}

/// A POST request that has started and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Arrival of its first byte, CLOCK_BOOTTIME.
    pub started_ns: u64,
    /// Content of its response was sent. A comment of an event stream is not content.
    pub has_response: bool,
}

/// One TCP connection to a watched port. Zeroed memory is a new connection.
///
/// Requests are numbered from 0 per connection. Number `n` uses entry `n % MAX_PENDING` of the ring.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connection {
    /// Slot of its endpoint.
    pub slot: u32,
    /// Requests started. Written by ingress.
    pub(super) begun: u32,
    /// Requests ended, in order; at most `begun`. Written by both directions (`requests::end`).
    pub(super) ended: u32,
    /// Not 0 after a FIN or RST: no further request can start.
    pub(super) closed: u32,
    /// Not 0 if the connection does not speak HTTP/1.1 or pipelines more than [`MAX_PENDING`] requests.
    pub(super) opaque: u32,
    /// Port of the client.
    pub remote_port: u16,
    pub(super) reserved: u16,
    pub(super) pending: [Pending; MAX_PENDING as usize],
    pub(super) reply: Reply,
    /// The client's direction.
    pub request: Half,
    /// The server's direction.
    pub response: Half,
}

impl Connection {
    /// Returns whether the connection can carry no further request, so that its entry may be removed.
    pub fn is_closed(&self) -> bool {
        self.closed != 0
    }

    /// Number of POST requests that have started and not ended.
    pub fn open_requests(&self) -> u32 {
        self.open().filter(|(_, pending)| pending.is_counted()).count() as u32
    }

    /// The POST requests that have started and not ended, the oldest first.
    pub fn requests(&self) -> impl Iterator<Item = OpenRequest> {
        let has_content = self.response.prelude == Prelude::OVER && self.response.phase != Phase::IDLE;
        let counted = self.open().filter(|(_, pending)| pending.is_counted());
        counted.map(move |(number, pending)| OpenRequest {
            started_ns: pending.started_ns,
            has_response: has_content && number == self.response.index,
        })
    }

    /// Returns whether the last segment to the client had content of a response to POST, as far as known. Comments of an
    /// event stream and responses to probes are not content.
    #[inline(always)]
    pub fn has_sent_content(&self) -> bool {
        let Half { effects, phase, prelude, counted, .. } = &self.response;
        if effects.chunks != 0 || effects.finished != 0 || effects.ttft_ns != 0 {
            return true;
        }
        effects.bytes != 0 && *counted != 0 && *prelude == Prelude::OVER && phase.is_within_content()
    }

    /// Bytes received for open POST requests that have no response body byte yet.
    pub fn waiting_bytes(&self) -> u64 {
        self.open().map(|(_, pending)| pending).filter(|it| it.is_counted()).map(Pending::waiting_bytes).sum()
    }

    /// The open requests with their numbers.
    fn open(&self) -> impl Iterator<Item = (u32, &Pending)> {
        let open = self.begun.wrapping_sub(self.ended).min(MAX_PENDING);
        let numbers = (0..open).map(|ahead| self.ended.wrapping_add(ahead));
        numbers.map(|number| (number, &self.pending[(number % MAX_PENDING) as usize]))
    }
}
