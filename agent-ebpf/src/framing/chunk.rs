//! Chunk size lines, the same in both directions (RFC 9112 §7.1).

use super::{
    half::{Half, Phase},
    payload::through_line_feed,
    state::SKIP_SEGMENT,
};

/// Reads one byte of a chunk size line other than its line feed. Sizes of 2^40 bytes and more lose framing.
#[inline(always)]
pub(super) fn size_byte(half: &mut Half, byte: u8) -> u32 {
    let digit = byte.wrapping_sub(b'0');
    let letter = (byte | 0x20).wrapping_sub(b'a');
    if digit <= 9 {
        half.remaining = half.remaining << 4 | u64::from(digit);
    } else if letter <= 5 {
        half.remaining = half.remaining << 4 | u64::from(letter + 10);
    } else if byte == b';' || byte == b' ' || byte == b'\t' {
        half.phase = Phase::CHUNK_EXTENSION;
    } else if byte != b'\r' {
        half.lose_framing();
        return SKIP_SEGMENT;
    }
    if half.remaining >> 40 != 0 {
        half.lose_framing();
        return SKIP_SEGMENT;
    }
    1
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
