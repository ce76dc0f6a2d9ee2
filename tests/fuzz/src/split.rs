//! Splits of an input into the pieces in which a network could deliver it.

/// The first byte of an input, which selects a split, and the rest. An empty input has the seed 0.
pub fn seed(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(seed, rest)| (*seed, rest))
}

/// Bytes that seed 0 gives one by one.
const SINGLE_BYTES: usize = 200;

/// Pieces of 1 to 64 bytes, mostly short. Seed 0 gives single bytes, and longer pieces at the end of a long input. The same
/// seed gives the same pieces.
///
/// # Examples
///
/// ```
/// assert_eq!(forebay_fuzz::pieces(b"abc", 0).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
/// assert_eq!(forebay_fuzz::pieces(b"abc", 7).flatten().copied().collect::<Vec<_>>(), b"abc");
/// ```
pub fn pieces(mut bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    let end_of_single = bytes.len().saturating_sub(SINGLE_BYTES);
    std::iter::from_fn(move || {
        // A linear congruential generator (Numerical Recipes).
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (range, value) = (state >> 30, state >> 16);
        let size = match range {
            _ if seed == 0 && bytes.len() > end_of_single => 1,
            0 => 1,
            1 => 1 + value as usize % 4,
            2 => 1 + value as usize % 16,
            _ => 1 + value as usize % 64,
        };
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
