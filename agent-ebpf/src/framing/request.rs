//! The client's direction.

use super::{
    Payload,
    connection::{Connection, Direction, LEAVE, MAX_PENDING, abort_pending, pending},
    half::Phase,
    head, through_line_feed,
};

const POST: u32 = u32::from_be_bytes(*b"POST");
const HEAD: u32 = u32::from_be_bytes(*b"HEAD");
/// The HTTP/2 preface starts with `PRI `.
const PRI: u32 = u32::from_be_bytes(*b"PRI ");

/// Whether a payload may be the start of a request: a method's first two letters.
#[inline(always)]
pub(super) fn looks_like_start<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    if length < 2 {
        return false;
    }
    let word = payload.word(0, 2);
    is_upper(word as u8) && is_upper((word >> 8) as u8)
}

/// Reads a little of a request: `word` has the next bytes (at most 8 of `left`).
/// Returns how many were consumed, or [`LEAVE`].
///
/// Never inlined: at a call the verifier forgets what it derived about the state,
/// which keeps the number of paths through the loop small.
#[inline(never)]
pub(super) fn step(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
    let count = if left > 8 { 8 } else { left };
    let byte = word as u8;
    let half = &mut connection.request;
    let phase = half.phase;
    if phase == Phase::SIZED_BODY || phase == Phase::CHUNK_DATA {
        let consumed = if half.remaining > u64::from(left) { left } else { half.remaining as u32 };
        half.remaining -= u64::from(consumed);
        if half.remaining == 0 {
            half.phase = if phase == Phase::SIZED_BODY { Phase::IDLE } else { Phase::CHUNK_SIZE };
        }
        return consumed;
    }
    if phase == Phase::IDLE {
        if byte == b'\r' || byte == b'\n' {
            return 1;
        }
        if !is_upper(byte) {
            // TLS, or the rest of something that began before we watched.
            if connection.begun == 0 {
                turn_opaque(connection);
            } else {
                half.lose();
            }
            return LEAVE;
        }
        half.begin_message();
        connection.pending[(connection.begun % MAX_PENDING) as usize].started_ns = now_ns;
        return 0;
    }
    if phase == Phase::START_LINE {
        if half.position < 4 {
            half.token = half.token << 8 | u32::from(byte);
            half.position += 1;
            if half.position == 4 {
                begin(connection);
            }
            return 1;
        }
        let found = through_line_feed(word, count);
        if found == 0 {
            return count;
        }
        half.phase = Phase::HEADERS;
        return found;
    }
    if phase == Phase::HEADERS {
        let step = head::step(half, word, count, true);
        if step.over {
            half.phase = if half.chunked != 0 {
                half.remaining = 0;
                Phase::CHUNK_SIZE
            } else if half.length != 0 {
                half.remaining = half.length;
                Phase::SIZED_BODY
            } else {
                Phase::IDLE
            };
        }
        return step.consumed;
    }
    if phase == Phase::CHUNK_SIZE {
        if byte == b'\n' {
            half.phase = if half.remaining == 0 { Phase::TRAILERS } else { Phase::CHUNK_DATA };
            // The chunk's own CR LF is skipped with it.
            half.remaining += 2;
            return 1;
        }
        return chunk_size_byte(half, byte);
    }
    if phase == Phase::CHUNK_EXTENSION {
        let found = through_line_feed(word, count);
        if found == 0 {
            return count;
        }
        half.phase = Phase::CHUNK_SIZE;
        // The line feed itself is for the phase that knows what follows.
        return found - 1;
    }
    if phase == Phase::TRAILERS {
        let step = head::step(half, word, count, false);
        if step.over {
            half.phase = Phase::IDLE;
        }
        return step.consumed;
    }
    LEAVE
}

/// One byte of a chunk's size line that is not its line feed.
#[inline(always)]
pub(super) fn chunk_size_byte(half: &mut super::half::Half, byte: u8) -> u32 {
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

/// The method is known: the request counts from here on.
#[inline(always)]
fn begin(connection: &mut Connection) {
    let token = connection.request.token;
    if token == PRI || connection.begun.wrapping_sub(connection.ended) >= MAX_PENDING {
        turn_opaque(connection);
        return;
    }
    let mut flags = 0;
    if token == POST {
        flags = pending::COUNTED;
        connection.request.effects.started += 1;
    } else {
        connection.request.effects.other += 1;
        if token == HEAD {
            flags = pending::NO_BODY;
        }
    }
    connection.pending[(connection.begun % MAX_PENDING) as usize].flags = flags;
    connection.begun += 1;
}

#[inline(always)]
fn turn_opaque(connection: &mut Connection) {
    connection.opaque = 1;
    connection.request.effects.opaque = 1;
    connection.request.phase = Phase::LOST;
    abort_pending(connection, Direction::Ingress);
}

#[inline(always)]
fn is_upper(byte: u8) -> bool {
    byte.wrapping_sub(b'A') < 26
}
