//! Sixty-four bytes looked at together: where the characters are that matter to JSON's structure.
//!
//! A set of bytes is a `u64`, the bit of worth `1 << n` for the byte at `n`.

use wide::u8x16;

/// Bytes in a block, one for each bit of a mask.
pub(super) const BLOCK_BYTES: usize = 64;

pub(super) type Block = [u8; BLOCK_BYTES];

/// Where the bytes are that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// `{`, `[`, `}` and `]`
    pub(super) brackets: u64,
}

/// `{` and `[` differ in this bit only, and so do `}` and `]`; no other byte becomes one of them by it
/// but the other.
const BRACKET_BIT: u8 = b'{' ^ b'[';

/// A block as registers hold it.
type Lanes = [u8x16; BLOCK_BYTES / LANE_BYTES];

const LANE_BYTES: usize = 16;

#[inline]
pub(super) fn quotes(block: &Block) -> u64 {
    mask(load(block).map(|lane| lane.simd_eq(u8x16::splat(b'"'))))
}

#[inline]
pub(super) fn marks(block: &Block) -> Marks {
    let lanes = load(block);
    let backslashes = lanes.map(|lane| lane.simd_eq(u8x16::splat(b'\\')));
    let [a, b, c, d] = backslashes;
    Marks {
        quotes: mask(lanes.map(|lane| lane.simd_eq(u8x16::splat(b'"')))),
        // Mostly there are none.
        backslashes: if (a | b | c | d).to_bitmask() == 0 { 0 } else { mask(backslashes) },
        brackets: mask(lanes.map(|lane| {
            let curly = lane | u8x16::splat(BRACKET_BIT);
            curly.simd_eq(u8x16::splat(b'{')) | curly.simd_eq(u8x16::splat(b'}'))
        })),
    }
}

#[inline]
fn load(block: &Block) -> Lanes {
    let (lanes, _) = block.as_chunks::<LANE_BYTES>();
    std::array::from_fn(|at| u8x16::new(lanes[at]))
}

#[inline]
fn mask(lanes: Lanes) -> u64 {
    let [a, b, c, d] = lanes.map(|lane| u64::from(lane.to_bitmask()));
    a | b << 16 | c << 32 | d << 48
}

/// The bytes that a backslash before them takes the meaning from, and whether the byte behind the
/// block is another one. The first byte is none.
///
/// In a run of backslashes every second one is itself escaped. Adding a run's first bit to the run carries to
/// the bit behind it, so it is had for all runs at once whether they begin and end at even or odd places
/// (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019, section 3.1.1).
#[inline]
pub(super) fn escaped(backslashes: u64) -> (u64, bool) {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    if backslashes == 0 {
        return (0, false);
    }
    let after = backslashes << 1;
    let begins_odd = backslashes & !EVEN & !after;
    let (behind_odd, carried) = backslashes.overflowing_add(begins_odd);
    // Behind a run that began at an even place, the odd places are the escaped ones; else the even ones.
    (after & (EVEN ^ behind_odd << 1), carried)
}

/// For every bit whether an odd number of bits is set up to and with it.
#[inline]
pub(super) fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[]".to_vec())];
        prop::collection::vec(byte, BLOCK_BYTES)
    }

    fn places(block: &[u8], is: impl Fn(u8) -> bool) -> u64 {
        block.iter().enumerate().fold(0, |mask, (at, byte)| mask | u64::from(is(*byte)) << at)
    }

    proptest! {
        #[test]
        fn marks_are_where_the_bytes_are(block in bytes()) {
            let found = marks(block[..].try_into().unwrap());
            let is = |these: &'static [u8]| places(&block, |byte| these.contains(&byte));
            let expected = Marks {
                quotes: is(b"\""),
                backslashes: is(b"\\"),
                brackets: is(b"{[}]"),
            };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(quotes(block[..].try_into().unwrap()), expected.quotes);
        }

        #[test]
        fn escapes_are_as_a_walk_finds_them(backslashes in any::<u64>(), more in any::<u64>()) {
            for backslashes in [backslashes, backslashes | more, u64::MAX << (more % 64)] {
                let (mut expected, mut escapes) = (0, false);
                for at in 0..BLOCK_BYTES {
                    expected |= u64::from(escapes) << at;
                    escapes = !escapes && backslashes >> at & 1 == 1;
                }
                prop_assert_eq!(escaped(backslashes), (expected, escapes));
            }
        }

        #[test]
        fn parity_counts_the_bits_before(bits: u64) {
            let expected = (0..BLOCK_BYTES).fold(0, |mask, at| {
                let odd = (bits << (63 - at)).count_ones() % 2;
                mask | u64::from(odd) << at
            });
            prop_assert_eq!(parity(bits), expected);
        }
    }
}
