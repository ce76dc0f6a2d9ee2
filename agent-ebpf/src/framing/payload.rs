//! Access to the bytes of a segment.

/// The TCP payload of a segment, in a slice or in a kernel socket buffer.
pub trait Payload {
    /// Reads `count` (1 to 8) bytes at `offset` as a little-endian word. Bytes beyond the end read as zero.
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

/// Number of the low `count` (1 to 8) bytes of `word` up to and including the first line feed; 0 without one.
#[inline(always)]
pub(super) fn through_line_feed(word: u64, count: u32) -> u32 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let difference = word ^ (LOW * b'\n' as u64);
    let mut hits = difference.wrapping_sub(LOW) & !difference & HIGH;
    if hits == 0 {
        return 0;
    }
    // Only the lowest hit is exact. Higher ones may be artefacts of the borrow.
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
