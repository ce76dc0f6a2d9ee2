//! Both directions together: which response answers which request, and how
//! requests end.

use super::{
    Payload, claim,
    half::{Effects, Half, Phase},
    request, response,
    sequence::{self, Admitted},
    walk::Walk,
};

/// Requests one connection may have unanswered (pipelining). More make it opaque.
pub const MAX_PENDING: u32 = 8;

/// What of a TCP segment matters besides its payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub seq: u32,
    /// Payload bytes.
    pub length: u32,
    pub fin: bool,
    pub rst: bool,
}

/// A request that has begun and whose response has not ended.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Pending {
    /// Arrival of its first byte, CLOCK_BOOTTIME.
    pub(super) started_ns: u64,
    /// Bits of [`pending`].
    pub(super) flags: u32,
    pub(super) reserved: u32,
}

pub(super) mod pending {
    /// A POST: inference.
    pub(in super::super) const COUNTED: u32 = 1;
    /// A HEAD: its response has no body whatever its headers say.
    pub(in super::super) const NO_BODY: u32 = 2;
}

/// One TCP connection to a watched port. A zeroed value is a fresh one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connection {
    /// Slot of the endpoint it belongs to.
    pub slot: u32,
    /// Requests that began. Written by ingress.
    pub(super) begun: u32,
    /// Requests that ended, in order. Advanced by whoever ends one
    /// ([`claim::advance`]); never beyond `begun`.
    pub(super) ended: u32,
    /// Not 0 once a FIN or RST was seen: no request can begin any more.
    pub(super) closed: u32,
    /// Not 0 once it turned out to be no HTTP/1.1 that can be followed.
    pub(super) opaque: u32,
    pub remote_port: u16,
    pub(super) reserved: u16,
    /// Ring, by request number.
    pub(super) pending: [Pending; MAX_PENDING as usize],
    pub request: Half,
    pub response: Half,
}

impl Connection {
    /// The connection will never carry a request again, so its entry may go.
    pub fn is_closed(&self) -> bool {
        self.closed != 0
    }

    /// Counted requests that have begun and not ended.
    pub fn open_requests(&self) -> u32 {
        let open = self.begun.wrapping_sub(self.ended).min(MAX_PENDING);
        let numbers = (0..open).map(|ahead| self.ended.wrapping_add(ahead));
        let counted =
            |number: &u32| self.pending[(number % MAX_PENDING) as usize].flags & pending::COUNTED != 0;
        numbers.filter(counted).count() as u32
    }

    /// A segment from the client. What it changed is in `request.effects`.
    #[inline(always)]
    pub fn ingress<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        self.request.effects = Effects::default();
        if self.closed != 0 {
            return;
        }
        if self.opaque == 0 && segment.length != 0 {
            self.read_request(segment, payload, now_ns);
        }
        if (segment.fin || segment.rst) && sequence::is_near(&self.request, segment) {
            // vLLM's server takes a half-close as a disconnect, too.
            self.closed = 1;
            abort_pending(self, Direction::Ingress);
        }
    }

    /// A segment to the client. What it changed is in `response.effects`.
    #[inline(always)]
    pub fn egress<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        self.response.effects = Effects::default();
        if self.opaque == 0 && segment.length != 0 {
            self.read_response(segment, payload, now_ns);
        }
        if segment.fin || segment.rst {
            self.closed = 1;
            if segment.fin && self.response.phase == Phase::UNSIZED_BODY {
                response::end(self, now_ns);
            }
            abort_pending(self, Direction::Egress);
        }
    }

    /// The kernel says that the socket is gone. What was still open ends here; it
    /// is in `response.effects`.
    #[inline(always)]
    pub fn gone(&mut self) {
        self.response.effects = Effects::default();
        self.closed = 1;
        abort_pending(self, Direction::Egress);
    }

    #[inline(always)]
    fn read_request<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        let answered = self.begun == self.ended;
        let out_of_step = segment.seq != self.request.next_seq && self.request.sequence_known != 0;
        let lost = self.request.phase == Phase::LOST;
        if answered && (lost || out_of_step) && request::looks_like_start(payload, segment.length) {
            // Nothing was ever understood: perhaps the first segment was overtaken.
            if self.begun == 0 || sequence::is_ahead(&self.request, segment.seq) {
                sequence::resume_at(&mut self.request, segment.seq);
            }
        }
        let Admitted::From(from) = sequence::admit(&mut self.request, segment.seq, segment.length) else {
            return;
        };
        if !Walk::<P, true>::through(self, payload, segment, from, now_ns) {
            self.request.lose();
        }
    }

    #[inline(always)]
    fn read_response<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        if self.response.phase == Phase::LOST
            && sequence::is_ahead(&self.response, segment.seq)
            && response::looks_like_start(payload, segment.length)
        {
            response::begin_anew(self, segment.seq);
        }
        let Admitted::From(from) = sequence::admit(&mut self.response, segment.seq, segment.length) else {
            return;
        };
        if !Walk::<P, false>::through(self, payload, segment, from, now_ns) {
            self.response.lose();
        }
        if self.response.phase == Phase::LOST && response::ends_with_terminator(payload, segment.length) {
            response::end(self, now_ns);
        }
    }
}

/// Tells the driver to leave the rest of the segment alone.
pub(super) const LEAVE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Ends every request that has not ended, as aborted.
#[inline(always)]
pub(super) fn abort_pending(connection: &mut Connection, direction: Direction) {
    for _ in 0..MAX_PENDING {
        let index = connection.ended;
        if index == connection.begun {
            return;
        }
        if claim::advance(&mut connection.ended, index) {
            let flags = connection.pending[(index % MAX_PENDING) as usize].flags;
            if flags & pending::COUNTED != 0 {
                match direction {
                    Direction::Ingress => connection.request.effects.aborted += 1,
                    Direction::Egress => connection.response.effects.aborted += 1,
                }
            }
        }
    }
}
