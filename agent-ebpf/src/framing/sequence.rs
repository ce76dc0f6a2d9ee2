//! TCP sequence numbers (RFC 9293 §3.4): each byte is read once, retransmits are skipped.

use super::{
    half::{Half, Phase},
    state::Segment,
};

/// Maximum distance between a segment and the expected sequence number. A segment farther away belongs to an earlier
/// connection between the same ports: no receive window is that wide in practice.
const MAX_DISTANCE: u32 = 1 << 26;

/// The new bytes of a segment.
pub(super) enum Admitted {
    /// A retransmit, or out of the window.
    NoBytes,
    /// The payload from this offset on.
    From(u32),
}

/// Finds the new bytes of a segment and advances `next_seq`.
///
/// A gap is a reordered segment, or one that the programs did not see. Inside a body of known length a gap is stepped
/// over exactly. Between messages and in a header section the direction waits for the retransmit. Inside chunk framing
/// a gap loses framing.
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
            return Admitted::NoBytes;
        }
        half.next_seq = seq.wrapping_add(length);
        half.effects.bytes = length - seen;
        return Admitted::From(seen);
    }

    if ahead as u32 > MAX_DISTANCE {
        return Admitted::NoBytes;
    }
    let gap = ahead as u64;
    let phase = half.phase;
    if (phase == Phase::SIZED_BODY || phase == Phase::CHUNK_DATA) && half.remaining > gap {
        half.remaining -= gap;
        half.unrecorded_bytes = half.unrecorded_bytes.wrapping_add(gap as u32);
    } else if phase == Phase::UNSIZED_BODY || phase == Phase::LOST {
        // No framing to keep.
    } else if phase == Phase::IDLE || phase == Phase::START_LINE || phase == Phase::HEADERS {
        return Admitted::NoBytes;
    } else {
        half.lose_framing();
    }
    half.next_seq = seq.wrapping_add(length);
    // The bytes of the gap count now: if they arrive later, they are before `next_seq`.
    half.effects.bytes = length.wrapping_add(ahead as u32);
    Admitted::From(0)
}

/// Returns whether a segment that starts at `seq` contains only new bytes.
#[inline(always)]
pub(super) fn is_ahead(half: &Half, seq: u32) -> bool {
    seq.wrapping_sub(half.next_seq) <= MAX_DISTANCE
}

/// Returns whether the end of a segment is in the window of this connection. The programs see segments before TCP
/// validates them, so a stray FIN or RST must not end the connection.
#[inline(always)]
pub(super) fn is_near(half: &Half, segment: Segment) -> bool {
    let distance = segment.seq.wrapping_add(segment.length).wrapping_sub(half.next_seq);
    half.sequence_known == 0 || distance.wrapping_add(MAX_DISTANCE) <= 2 * MAX_DISTANCE
}

/// Resynchronises: expects a message start at `seq`.
#[inline(always)]
pub(super) fn resume_at(half: &mut Half, seq: u32) {
    half.next_seq = seq;
    half.phase = Phase::IDLE;
}
