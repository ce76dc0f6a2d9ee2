//! Finds the structural characters of JSON in blocks of 64 bytes with SIMD.
//!
//! A mask is a `u64`. Bit `n` is the byte at index `n` of the block.

use wide::u8x16;

/// Bytes in a block: the bits of a mask.
pub(super) const BLOCK_BYTES: usize = 64;

pub(super) type Block = [u8; BLOCK_BYTES];

/// Masks of the structural characters of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// `{`, `[`, `}` and `]`
    pub(super) brackets: u64,
}

/// Masks of the characters that matter for strings, and of blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextMasks {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// Spaces and control characters. Outside strings, those are whitespace, or invalid.
    pub(super) blanks: u64,
}

/// The only bit in which `{` and `[` differ, and `}` and `]`. Setting it maps only these bytes to `{` or `}`.
const BRACKET_BIT: u8 = b'{' ^ b'[';

/// A block in SIMD registers.
type Lanes = [u8x16; BLOCK_BYTES / LANE_BYTES];

const LANE_BYTES: usize = 16;

/// Mask of the quotes.
#[inline]
pub(super) fn quotes(block: &Block) -> u64 {
    mask(load(block).map(|lane| lane.simd_eq(u8x16::splat(b'"'))))
}

/// Masks of all structural characters.
#[inline]
pub(super) fn masks(block: &Block) -> Masks {
    let lanes = load(block);
    Masks {
        quotes: mask(lanes.map(|lane| lane.simd_eq(u8x16::splat(b'"')))),
        backslashes: backslashes(lanes),
        brackets: mask(lanes.map(|lane| {
            let curly = lane | u8x16::splat(BRACKET_BIT);
            curly.simd_eq(u8x16::splat(b'{')) | curly.simd_eq(u8x16::splat(b'}'))
        })),
    }
}

/// Masks of quotes, backslashes and blanks.
#[inline]
pub(super) fn text_masks(block: &Block) -> TextMasks {
    let lanes = load(block);
    TextMasks {
        quotes: mask(lanes.map(|lane| lane.simd_eq(u8x16::splat(b'"')))),
        backslashes: backslashes(lanes),
        blanks: mask(lanes.map(|lane| lane.min(u8x16::splat(b' ')).simd_eq(lane))),
    }
}

#[inline]
fn backslashes(lanes: Lanes) -> u64 {
    let found = lanes.map(|lane| lane.simd_eq(u8x16::splat(b'\\')));
    let [a, b, c, d] = found;
    // Fast path: most blocks have none.
    if (a | b | c | d).to_bitmask() == 0 { 0 } else { mask(found) }
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

/// Mask of the escaped bytes, and whether the byte after the block is escaped. The first byte is not escaped.
///
/// In a run of backslashes every second one is escaped. Adding the first bit of a run to the run carries into the bit after
/// it, which shows for all runs at once whether they start and end at even or odd positions
/// (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019, section 3.1.1).
#[inline]
pub(super) fn escaped(backslashes: u64) -> (u64, bool) {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    if backslashes == 0 {
        return (0, false);
    }
    let after = backslashes << 1;
    let begins_odd = backslashes & !EVEN & !after;
    let (after_odd, carried) = backslashes.overflowing_add(begins_odd);
    // Runs that start at an even position escape odd positions, the others even positions.
    (after & (EVEN ^ after_odd << 1), carried)
}

/// Prefix XOR: bit `n` is set if an odd number of the bits 0 to `n` is set.
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

    fn mask_of(block: &[u8], is: impl Fn(u8) -> bool) -> u64 {
        block.iter().enumerate().fold(0, |mask, (at, byte)| mask | u64::from(is(*byte)) << at)
    }

    proptest! {
        #[test]
        fn masks_agree_with_a_bytewise_search(block in bytes()) {
            let found = masks(block[..].try_into().unwrap());
            let is = |these: &'static [u8]| mask_of(&block, |byte| these.contains(&byte));
            let expected = Masks {
                quotes: is(b"\""),
                backslashes: is(b"\\"),
                brackets: is(b"{[}]"),
            };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(quotes(block[..].try_into().unwrap()), expected.quotes);
            let expected = TextMasks {
                quotes: expected.quotes,
                backslashes: expected.backslashes,
                blanks: mask_of(&block, |byte| byte <= b' '),
            };
            prop_assert_eq!(text_masks(block[..].try_into().unwrap()), expected);
        }

        #[test]
        fn escaped_agrees_with_a_bytewise_search(backslashes in any::<u64>(), more in any::<u64>()) {
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
        fn parity_counts_the_bits_up_to_each_bit(bits: u64) {
            let expected = (0..BLOCK_BYTES).fold(0, |mask, at| {
                let odd = (bits << (63 - at)).count_ones() % 2;
                mask | u64::from(odd) << at
            });
            prop_assert_eq!(parity(bits), expected);
        }
    }
}
