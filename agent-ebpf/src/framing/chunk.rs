//! Chunk size lines, the same in both directions (RFC 9112 §7.1).

use super::{
    half::{Half, Phase},
    header::Step,
    payload::through_line_feed,
    state::SKIP_SEGMENT,
};

/// A chunk of this size or more loses framing.
const MAX_SIZE: u64 = 1 << 40;

/// Reads the next bytes of a chunk size line: `word` has the first `count` of them. Most lines are read in one step.
#[inline(always)]
pub(super) fn size(half: &mut Half, mut word: u64, count: u32) -> Step {
    let mut size = half.remaining;
    let mut consumed = 0;
    while consumed < count {
        let byte = word as u8;
        let digit = byte.wrapping_sub(b'0');
        let letter = (byte | 0x20).wrapping_sub(b'a');
        if digit <= 9 {
            size = size << 4 | u64::from(digit);
        } else if letter <= 5 {
            size = size << 4 | u64::from(letter + 10);
        } else if byte != b'\r' {
            break;
        }
        if size >= MAX_SIZE {
            half.lose_framing();
            return Step { consumed: SKIP_SEGMENT, over: false };
        }
        word >>= 8;
        consumed += 1;
    }
    half.remaining = size;
    if consumed == count {
        return Step { consumed, over: false };
    }
    let byte = word as u8;
    if byte == b'\n' {
        return Step { consumed: consumed + 1, over: true };
    }
    if byte == b';' || byte == b' ' || byte == b'\t' {
        half.phase = Phase::CHUNK_EXTENSION;
        return Step { consumed: consumed + 1, over: false };
    }
    half.lose_framing();
    Step { consumed: SKIP_SEGMENT, over: false }
}

/// Skips chunk extensions up to, not including, the line feed, which [`Phase::CHUNK_SIZE`] handles.
#[inline(always)]
pub(super) fn extension(half: &mut Half, word: u64, count: u32) -> u32 {
    let found = through_line_feed(word, count);
    if found == 0 {
        return count;
    }
    half.phase = Phase::CHUNK_SIZE;
    found - 1
}
