//! The loop over the bytes of one segment.

use super::{
    half::Half,
    payload::Payload,
    request, response,
    state::{Connection, Segment},
};

/// Maximum steps per segment, which bounds the time in the kernel. A step reads a few bytes of framing or skips any
/// number of bytes. A full 64 KiB segment of token events takes about 800 steps. With more, framing is lost until the
/// response ends or the next request starts.
pub const MAX_STEPS: u32 = 16_384;

/// A walk through the new bytes of one segment.
///
/// The position is in the connection's [`Half`], which is map memory: the verifier tracks values on the stack exactly,
/// iteration by iteration, and would not terminate. Values from a map are unknown to it.
pub(super) struct Walk<'a, P: Payload + ?Sized, const REQUEST: bool> {
    connection: &'a mut Connection,
    payload: &'a P,
    now_ns: u64,
}

impl<'a, P: Payload + ?Sized, const REQUEST: bool> Walk<'a, P, REQUEST> {
    /// Walks from `offset` to the end of the segment. Returns `false` if [`MAX_STEPS`] were not enough.
    #[inline(always)]
    pub(super) fn through(
        connection: &'a mut Connection,
        payload: &'a P,
        segment: Segment,
        offset: u32,
        now_ns: u64,
    ) -> bool {
        let half = if REQUEST { &mut connection.request } else { &mut connection.response };
        half.cursor = offset;
        half.end = segment.length;
        let mut walk = Self { connection, payload, now_ns };
        repeat(&mut walk);
        let half = walk.half();
        half.cursor == half.end
    }

    #[inline(always)]
    fn half(&mut self) -> &mut Half {
        if REQUEST { &mut self.connection.request } else { &mut self.connection.response }
    }

    /// Returns whether to stop.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let half = self.half();
        let (cursor, end) = (half.cursor, half.end);
        let left = end.wrapping_sub(cursor);
        if left == 0 {
            return true;
        }
        let count = if left > 8 { 8 } else { left };
        let word = self.payload.word(cursor, count);
        let consumed = if REQUEST {
            request::step(self.connection, word, left, self.now_ns)
        } else {
            response::step(self.connection, word, left, self.now_ns)
        };
        // `SKIP_SEGMENT` is more than any length.
        self.half().cursor = if consumed > left { end } else { cursor + consumed };
        consumed >= left
    }
}

#[cfg(not(all(target_arch = "bpf", feature = "kernel")))]
fn repeat<P: Payload + ?Sized, const REQUEST: bool>(walk: &mut Walk<'_, P, REQUEST>) {
    for _ in 0..MAX_STEPS {
        if walk.step() {
            return;
        }
    }
}

/// Uses `bpf_loop` (Linux 5.17): the verifier checks the body once instead of every iteration.
#[cfg(all(target_arch = "bpf", feature = "kernel"))]
#[inline(always)]
#[allow(unsafe_code, reason = "the helper takes the addresses of a function and a value")]
fn repeat<P: Payload + ?Sized, const REQUEST: bool>(walk: &mut Walk<'_, P, REQUEST>) {
    extern "C" fn iteration<P: Payload + ?Sized, const REQUEST: bool>(
        _index: u64,
        walk: *mut Walk<'_, P, REQUEST>,
    ) -> i64 {
        // SAFETY: the helper passes the pointer given below, during the call only.
        let walk = unsafe { &mut *walk };
        i64::from(walk.step())
    }
    // SAFETY: the callback has the signature that the helper expects, and `walk` outlives the call.
    unsafe {
        aya_ebpf::helpers::bpf_loop(
            MAX_STEPS,
            iteration::<P, REQUEST> as *mut core::ffi::c_void,
            (&raw mut *walk).cast(),
            0,
        );
    }
}
