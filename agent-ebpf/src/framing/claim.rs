//! One request is ended once, though two CPUs may try.

/// Moves `counter` from `expected` to the next value, unless somebody else did.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn advance(counter: &mut u32, expected: u32) -> bool {
    use core::sync::atomic::{AtomicU32, Ordering};

    #[allow(unsafe_code, reason = "an exclusive borrow is a valid atomic for as long as it lives")]
    // SAFETY: `counter` is aligned and lives through the call.
    let counter = unsafe { AtomicU32::from_ptr(counter) };
    counter.compare_exchange(expected, expected.wrapping_add(1), Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// The BPF target has the instruction but not `core`'s atomics on it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn advance(counter: &mut u32, expected: u32) -> bool {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};

    #[allow(unsafe_code, reason = "no safe compare-and-exchange exists for this target")]
    // SAFETY: `counter` is a valid, aligned place in a map value.
    let (_, moved) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            counter,
            expected,
            expected.wrapping_add(1),
        )
    };
    moved
}
