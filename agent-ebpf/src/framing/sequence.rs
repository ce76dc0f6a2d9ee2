//! TCP sequence numbers: each byte is looked at once, whatever is sent again.

use super::half::{Half, Phase};

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
    half.effects.bytes = length;
    Admitted::From(0)
}

/// Forgets what was expected and goes on from here.
#[inline(always)]
pub(super) fn resume_at(half: &mut Half, seq: u32) {
    half.next_seq = seq;
    half.phase = Phase::IDLE;
}
