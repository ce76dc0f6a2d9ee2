//! Atomic operations on words that both directions write.
//!
//! The BPF target has the instructions (`-C target-cpu=v3`), but `core::sync::atomic` does not offer them there.

/// Replaces `expected` by `new`. Returns `false` if the word had another value.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn replace_u32(word: &mut u32, expected: u32, new: u32) -> bool {
    use core::sync::atomic::{AtomicU32, Ordering};

    #[allow(unsafe_code, reason = "an exclusive borrow is a valid atomic for its lifetime")]
    // SAFETY: `word` is aligned and outlives the call.
    let word = unsafe { AtomicU32::from_ptr(word) };
    word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Replaces `expected` by `new`. Returns `false` if the word had another value.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn replace_u32(word: &mut u32, expected: u32, new: u32) -> bool {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};

    #[allow(unsafe_code, reason = "no safe compare-and-exchange exists for this target")]
    // SAFETY: `word` is aligned memory in a map value.
    let (_, replaced) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, expected, new)
    };
    replaced
}

/// Replaces `expected` by `new`. Returns `false` if the word had another value.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn replace_u64(word: &mut u64, expected: u64, new: u64) -> bool {
    use core::sync::atomic::{AtomicU64, Ordering};

    #[allow(unsafe_code, reason = "an exclusive borrow is a valid atomic for its lifetime")]
    // SAFETY: `word` is aligned and outlives the call.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Replaces `expected` by `new`. Returns `false` if the word had another value.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn replace_u64(word: &mut u64, expected: u64, new: u64) -> bool {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};

    #[allow(unsafe_code, reason = "no safe compare-and-exchange exists for this target")]
    // SAFETY: `word` is aligned memory in a map value.
    let (_, replaced) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, expected, new)
    };
    replaced
}

/// Stores `new` and returns the value before.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn swap_u64(word: &mut u64, new: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};

    #[allow(unsafe_code, reason = "an exclusive borrow is a valid atomic for its lifetime")]
    // SAFETY: `word` is aligned and outlives the call.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.swap(new, Ordering::SeqCst)
}

/// Stores `new` and returns the value before.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn swap_u64(word: &mut u64, new: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering, atomic_xchg};

    #[allow(unsafe_code, reason = "no safe exchange exists for this target")]
    // SAFETY: `word` is aligned memory in a map value.
    unsafe {
        atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word, new)
    }
}
