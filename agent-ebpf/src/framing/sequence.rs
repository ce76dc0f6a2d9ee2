//! TCP sequence numbers: each byte is looked at once, whatever is sent again.

use super::{
    connection::Segment,
    half::{Half, Phase},
};

/// No window is this wide in practice: what lies farther off belongs to another
/// connection, an earlier one between the same ports.
const FARTHEST: u32 = 1 << 26;

/// What a segment has for a direction.
pub(super) enum Admitted {
    /// All seen before.
    Nothing,
    /// New bytes from this offset of the payload on.
    From(u32),
}

/// Places a segment in its direction and moves `next_seq` behind it.
///
/// A gap (a segment that overtook another, or one that was never shown) inside a
/// body of known length is stepped over exactly. Elsewhere the direction waits for
/// the missing bytes when it is between messages or in a header section (the peer
/// will send them again), and is lost inside chunk framing.
#[inline(always)]
pub(super) fn admit(half: &mut Half, seq: u32, length: u32) -> Admitted {
    if half.sequence_known == 0 {
        half.sequence_known = 1;
        half.next_seq = seq;
    }
    let ahead = seq.wrapping_sub(half.next_seq) as i32;
    if ahead <= 0 {
        let seen = ahead.wrapping_neg() as u32;
        if seen >= length {
            return Admitted::Nothing;
        }
        half.next_seq = seq.wrapping_add(length);
        half.effects.bytes = length - seen;
        return Admitted::From(seen);
    }

    if ahead as u32 > FARTHEST {
        return Admitted::Nothing;
    }
    let gap = ahead as u64;
    let phase = half.phase;
    if (phase == Phase::SIZED_BODY || phase == Phase::CHUNK_DATA) && half.remaining > gap {
        half.remaining -= gap;
    } else if phase == Phase::UNSIZED_BODY || phase == Phase::LOST {
        // Nothing to keep in step with.
    } else if phase == Phase::IDLE || phase == Phase::START_LINE || phase == Phase::HEADERS {
        return Admitted::Nothing;
    } else {
        half.lose();
    }
    half.next_seq = seq.wrapping_add(length);
    // Should the bytes of the gap still come, they are behind `next_seq`: they count now.
    half.effects.bytes = length.wrapping_add(ahead as u32);
    Admitted::From(0)
}

/// Whether a segment that starts here has nothing that was seen before.
#[inline(always)]
pub(super) fn is_ahead(half: &Half, seq: u32) -> bool {
    seq.wrapping_sub(half.next_seq) <= FARTHEST
}

/// Whether a segment's end is where this connection's bytes are. The programs see
/// segments before TCP has checked them, and a FIN or RST ends a connection.
#[inline(always)]
pub(super) fn is_near(half: &Half, segment: Segment) -> bool {
    let off = segment.seq.wrapping_add(segment.length).wrapping_sub(half.next_seq);
    half.sequence_known == 0 || off.wrapping_add(FARTHEST) <= 2 * FARTHEST
}

/// Forgets what was expected and goes on from here.
#[inline(always)]
pub(super) fn resume_at(half: &mut Half, seq: u32) {
    half.next_seq = seq;
    half.phase = Phase::IDLE;
}
