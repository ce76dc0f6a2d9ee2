//! Walking through a segment, a bounded number of steps at a time.

use super::{
    MAX_STEPS, Payload,
    connection::{Connection, Segment},
    half::Half,
    request, response,
};

/// A walk through the new bytes of one segment.
///
/// Where it is stands in the connection's [`Half`](super::Half), not here: what the
/// verifier finds on a program's stack it follows exactly, turn by turn, and never
/// comes to an end; what comes out of a map it takes as any number.
pub(super) struct Walk<'a, P: Payload + ?Sized, const REQUEST: bool> {
    connection: &'a mut Connection,
    payload: &'a P,
    now_ns: u64,
}

impl<'a, P: Payload + ?Sized, const REQUEST: bool> Walk<'a, P, REQUEST> {
    /// Walks from `offset` to the segment's end. `false` when the steps did not
    /// suffice.
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

    /// Says whether to stop.
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
        // More than there is: the rest is to be left alone.
        self.half().cursor = if consumed > left { end } else { cursor + consumed };
        consumed > left
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

/// The kernel's own loop (Linux 5.17): the verifier looks at one turn, not at all of
/// them.
#[cfg(all(target_arch = "bpf", feature = "kernel"))]
#[inline(always)]
#[allow(unsafe_code, reason = "the helper takes a function's and a value's address")]
fn repeat<P: Payload + ?Sized, const REQUEST: bool>(walk: &mut Walk<'_, P, REQUEST>) {
    extern "C" fn turn<P: Payload + ?Sized, const REQUEST: bool>(
        _turn: u64,
        walk: *mut Walk<'_, P, REQUEST>,
    ) -> i64 {
        // SAFETY: the helper hands on the pointer below, and only while it is valid.
        let walk = unsafe { &mut *walk };
        i64::from(walk.step())
    }
    // SAFETY: the callback's signature is the helper's, and `walk` outlives the call.
    unsafe {
        aya_ebpf::helpers::bpf_loop(
            MAX_STEPS,
            turn::<P, REQUEST> as *mut core::ffi::c_void,
            (&raw mut *walk).cast(),
            0,
        );
    }
}
