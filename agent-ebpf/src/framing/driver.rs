//! Applies segments to a connection.

use super::{
    half::Phase,
    payload::Payload,
    request,
    requests::{self, Direction},
    response,
    sequence::{self, Admitted},
    state::{Connection, Segment},
    walk::Walk,
};

impl Connection {
    /// Applies a segment from the client. The result is in `request.effects`.
    #[inline(always)]
    pub fn ingress<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        self.request.effects.clear();
        if self.closed != 0 {
            return;
        }
        if self.opaque == 0 && segment.length != 0 {
            self.read_request(segment, payload, now_ns);
        }
        if (segment.fin || segment.rst) && sequence::is_near(&self.request, segment) {
            // A half-close counts as a disconnect, as in uvicorn.
            self.closed = 1;
            requests::abort_all(self, Direction::Ingress, now_ns);
        }
    }

    /// Applies a segment to the client. The result is in `response.effects`.
    #[inline(always)]
    pub fn egress<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        self.response.effects.clear();
        if self.opaque == 0 && segment.length != 0 {
            self.read_response(segment, payload, now_ns);
        }
        if segment.fin || segment.rst {
            self.closed = 1;
            if segment.fin && self.response.phase == Phase::UNSIZED_BODY {
                response::end(self, 0, now_ns);
            }
            requests::abort_all(self, Direction::Egress, now_ns);
        }
    }

    /// Handles the destruction of the socket: open requests are aborted. The result is in `response.effects`.
    #[inline(always)]
    pub fn socket_closed(&mut self, now_ns: u64) {
        self.response.effects.clear();
        self.closed = 1;
        requests::abort_all(self, Direction::Egress, now_ns);
    }

    #[inline(always)]
    fn read_request<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        let answered = self.begun == self.ended;
        let out_of_sequence = segment.seq != self.request.next_seq && self.request.sequence_known != 0;
        let lost = self.request.phase == Phase::LOST;
        if answered && (lost || out_of_sequence) && request::looks_like_start(payload, segment.length) {
            // Before the first request, the segment may also be an older one that arrives late.
            if self.begun == 0 || sequence::is_ahead(&self.request, segment.seq) {
                sequence::resume_at(&mut self.request, segment.seq);
            }
        }
        let Admitted::From(from) = sequence::admit(&mut self.request, segment.seq, segment.length) else {
            return;
        };
        if !Walk::<P, true>::through(self, payload, segment, from, now_ns) {
            self.request.lose_framing();
        }
        request::record_bytes(self);
    }

    #[inline(always)]
    fn read_response<P: Payload + ?Sized>(&mut self, segment: Segment, payload: &P, now_ns: u64) {
        if self.response.phase == Phase::LOST
            && sequence::is_ahead(&self.response, segment.seq)
            && response::looks_like_start(payload, segment.length)
        {
            response::begin_after_loss(self, segment.seq);
        }
        let Admitted::From(from) = sequence::admit(&mut self.response, segment.seq, segment.length) else {
            return;
        };
        self.reply.sent_bytes = self.reply.sent_bytes.wrapping_add(u64::from(self.response.effects.bytes));
        if !Walk::<P, false>::through(self, payload, segment, from, now_ns) {
            self.response.lose_framing();
        }
        if self.response.phase == Phase::LOST && response::ends_with_terminator(payload, segment.length) {
            response::end(self, 0, now_ns);
        }
    }
}
