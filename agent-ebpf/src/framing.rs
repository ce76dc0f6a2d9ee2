//! HTTP/1.1 framing from TCP segments (RFC 9112), for counting, not for parsing.
//!
//! A [`Connection`] is fed every segment that carries payload or a closing flag, in
//! both directions, and says what happened in its [`Effects`]. It reads the few
//! bytes that framing hangs on (start lines, two header names, chunk sizes, the
//! first byte of a chunk) and skips the rest without looking.
//!
//! It is written for the BPF verifier: no allocation, no recursion, no panics, all
//! state in one fixed-size value, and a bounded number of steps per segment.
//!
//! Ingress and egress of one socket can run on two CPUs at once. Each direction
//! owns its [`Half`]; they meet in a ring of pending requests that ingress fills and
//! egress empties, and in [`claim`](self::claim), which lets exactly one of them end a
//! request.

mod chunk;
mod claim;
mod connection;
mod half;
mod head;
mod request;
mod response;
mod sequence;
mod walk;

pub use connection::{Connection, MAX_PENDING, Segment};
pub use half::{Effects, Half};

/// Steps (a few bytes of framing, or a skip of any length) that one segment may
/// take: a bound on time in the kernel. A full 64 KiB segment of token events takes
/// about 2,000. More means framing is lost and found again at the next response's
/// end or request's start.
pub const MAX_STEPS: u32 = 16_384;

/// A segment's TCP payload, wherever it lies.
pub trait Payload {
    /// `count` (1 to 8) bytes from `offset`, the first one lowest; what is not
    /// there is zero.
    fn word(&self, offset: u32, count: u32) -> u64;
}

impl Payload for [u8] {
    fn word(&self, offset: u32, count: u32) -> u64 {
        let mut word = [0; 8];
        let from = self.get(offset as usize..).unwrap_or_default();
        for (to, byte) in word.iter_mut().zip(from.iter().take(count as usize)) {
            *to = *byte;
        }
        u64::from_le_bytes(word)
    }
}

/// How many of the low `count` (1 to 8) bytes of `word` come before and include the
/// first line feed; 0 when there is none.
#[inline(always)]
fn through_line_feed(word: u64, count: u32) -> u32 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let difference = word ^ (LOW * b'\n' as u64);
    let mut hits = difference.wrapping_sub(LOW) & !difference & HIGH;
    if hits == 0 {
        return 0;
    }
    // The lowest hit is exact; those above it may be borrow artefacts.
    let mut position = 1;
    if hits & 0xffff_ffff == 0 {
        hits >>= 32;
        position += 4;
    }
    if hits & 0xffff == 0 {
        hits >>= 16;
        position += 2;
    }
    if hits & 0xff == 0 {
        position += 1;
    }
    if position <= count { position } else { 0 }
}

#[cfg(test)]
mod tests;
