//! The client's direction.

use super::{
    Payload, chunk,
    connection::{Connection, Direction, LEAVE, MAX_PENDING, abort_pending, pending},
    half::Phase,
    head,
};

const POST: u32 = u32::from_be_bytes(*b"POST");
const HEAD: u32 = u32::from_be_bytes(*b"HEAD");
/// The HTTP/2 preface starts with `PRI `.
const PRI: u32 = u32::from_be_bytes(*b"PRI ");

/// First four bytes of the methods of RFC 9110 and RFC 5789. Another word is taken
/// for the text of a body whose beginning was not seen.
#[inline(always)]
fn is_method(token: u32) -> bool {
    const GET: u32 = u32::from_be_bytes(*b"GET ");
    const PUT: u32 = u32::from_be_bytes(*b"PUT ");
    const DELETE: u32 = u32::from_be_bytes(*b"DELE");
    const CONNECT: u32 = u32::from_be_bytes(*b"CONN");
    const OPTIONS: u32 = u32::from_be_bytes(*b"OPTI");
    const TRACE: u32 = u32::from_be_bytes(*b"TRAC");
    const PATCH: u32 = u32::from_be_bytes(*b"PATC");
    matches!(token, POST | GET | HEAD | PUT | DELETE | CONNECT | OPTIONS | TRACE | PATCH)
}

/// Whether a payload may be the start of a request.
#[inline(always)]
pub(super) fn looks_like_start<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 4 && is_method((payload.word(0, 4) as u32).swap_bytes())
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
            if connection.begun == 0 && is_tls_record(byte) {
                turn_opaque(connection);
            } else {
                // Perhaps the rest of a request that began before we watched: the
                // next one will be found.
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
        return head::rest_of_start_line(half, word, count);
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
        return chunk::size_byte(half, byte);
    }
    if phase == Phase::CHUNK_EXTENSION {
        return chunk::extension(half, word, count);
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

/// The method is known: the request counts from here on.
#[inline(always)]
fn begin(connection: &mut Connection) {
    let token = connection.request.token;
    if token != PRI && !is_method(token) {
        connection.request.lose();
        return;
    }
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

/// The content types of TLS (RFC 8446, 5.1): control characters, which no text
/// begins with.
#[inline(always)]
fn is_tls_record(byte: u8) -> bool {
    byte.wrapping_sub(20) < 4
}

#[inline(always)]
fn is_upper(byte: u8) -> bool {
    byte.wrapping_sub(b'A') < 26
}
