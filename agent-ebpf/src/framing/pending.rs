//! The ring entry of a request, which both directions write.

use super::atomic::{replace_u64, swap_u64};

/// A POST request, which is counted.
pub(super) const COUNTED: u32 = 1;
/// A HEAD request: its response has no body (RFC 9112 §6.3, rule 1).
pub(super) const NO_BODY: u32 = 2;

/// Value of `waiting_bytes` after a response body byte or the request's end.
const NOT_WAITING: u64 = u64::MAX;

/// A request that has started and whose response has not ended.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Pending {
    /// Arrival of the first byte, CLOCK_BOOTTIME. Written by ingress.
    pub(super) started_ns: u64,
    /// Bytes received before the first response body byte, or [`NOT_WAITING`].
    waiting_bytes: u64,
    /// Bits [`COUNTED`] and [`NO_BODY`]. Written by ingress.
    flags: u32,
    reserved: u32,
}

impl Pending {
    /// Reuses the entry for a new request.
    #[inline(always)]
    pub(super) fn begin(&mut self, flags: u32) {
        self.flags = flags;
        self.waiting_bytes = 0;
    }

    #[inline(always)]
    pub(super) fn is_counted(&self) -> bool {
        self.flags & COUNTED != 0
    }

    #[inline(always)]
    pub(super) fn has_no_body(&self) -> bool {
        self.flags & NO_BODY != 0
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        if self.waiting_bytes == NOT_WAITING { 0 } else { self.waiting_bytes }
    }

    /// Adds received bytes, if the request still waits. Returns the number added. Ingress only.
    #[inline(always)]
    pub(super) fn add_waiting(&mut self, bytes: u32) -> i64 {
        let before = self.waiting_bytes;
        if !self.is_counted() || before == NOT_WAITING {
            return 0;
        }
        // The only other writer is `stop_waiting`. If the exchange fails, that one was first.
        if replace_u64(&mut self.waiting_bytes, before, before + u64::from(bytes)) {
            i64::from(bytes)
        } else {
            0
        }
    }

    /// Marks the request as not waiting. Returns the bytes that were waiting; 0 from the second call on.
    ///
    /// Must come before the request is ended: an ended entry may be reused at once.
    #[inline(always)]
    pub(super) fn stop_waiting(&mut self) -> i64 {
        if !self.is_counted() {
            return 0;
        }
        let waiting = swap_u64(&mut self.waiting_bytes, NOT_WAITING);
        if waiting == NOT_WAITING { 0 } else { waiting as i64 }
    }
}
