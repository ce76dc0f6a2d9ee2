//! A chunk's size line, the same in both directions (RFC 9112, 7.1).

use super::{
    connection::LEAVE,
    half::{Half, Phase},
    through_line_feed,
};

/// One byte of a chunk's size line that is not its line feed.
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
        half.lose();
        return LEAVE;
    }
    if half.remaining >> 40 != 0 {
        half.lose();
        return LEAVE;
    }
    1
}

/// Skips a chunk's extensions, up to its line feed: that is for the phase that knows
/// what follows.
#[inline(always)]
pub(super) fn extension(half: &mut Half, word: u64, count: u32) -> u32 {
    let found = through_line_feed(word, count);
    if found == 0 {
        return count;
    }
    half.phase = Phase::CHUNK_SIZE;
    found - 1
}
