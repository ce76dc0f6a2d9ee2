//! One step of the client's direction (RFC 9112 §3, §6).

use super::{
    chunk,
    ended::Ended,
    half::{Half, Phase},
    header,
    payload::Payload,
    pending,
    requests::{self, Direction},
    state::{Connection, MAX_PENDING, SKIP_SEGMENT},
};

/// Bytes of the method that are read. They identify every method.
const METHOD_BYTES: u8 = 4;

const POST: u32 = u32::from_be_bytes(*b"POST");
const HEAD: u32 = u32::from_be_bytes(*b"HEAD");
/// Start of the HTTP/2 connection preface (RFC 9113 §3.4).
const PRI: u32 = u32::from_be_bytes(*b"PRI ");

/// Compares with the first four bytes of the methods of RFC 9110 §9.3 and RFC 5789. Any other text is taken for the
/// middle of a body whose start was not seen.
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

/// Returns whether a payload may be the start of a request.
#[inline(always)]
pub(super) fn looks_like_start<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 4 && is_method((payload.word(0, 4) as u32).swap_bytes())
}

/// Reads the next bytes of a request: `word` has the first 8 of `left` bytes. Returns the number of bytes consumed, or
/// [`SKIP_SEGMENT`].
///
/// Never inlined: at a call the verifier forgets what it derived about the state, which limits the number of paths
/// through the loop.
#[inline(never)]
pub(super) fn step(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
    let in_request = is_in_request(connection);
    let consumed = read(connection, word, left, now_ns);
    if in_request && consumed <= left {
        connection.request.unrecorded_bytes = connection.request.unrecorded_bytes.wrapping_add(consumed);
        if connection.request.phase == Phase::IDLE {
            record_bytes(connection);
        }
    }
    consumed
}

/// Returns whether the next byte belongs to the newest request.
#[inline(always)]
fn is_in_request(connection: &Connection) -> bool {
    let half = &connection.request;
    half.phase != Phase::IDLE && (half.phase != Phase::START_LINE || half.position >= METHOD_BYTES)
}

/// Adds the bytes read so far to the newest request.
#[inline(always)]
pub(super) fn record_bytes(connection: &mut Connection) {
    let bytes = connection.request.unrecorded_bytes;
    connection.request.unrecorded_bytes = 0;
    if bytes != 0 {
        let newest = connection.begun.wrapping_sub(1);
        let added = connection.pending[(newest % MAX_PENDING) as usize].add_waiting(bytes);
        connection.request.effects.waiting_bytes += added;
    }
}

#[inline(always)]
fn read(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
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
        return between_messages(connection, byte, now_ns);
    }
    if phase == Phase::START_LINE {
        if half.position < METHOD_BYTES {
            half.token = half.token << 8 | u32::from(byte);
            half.position += 1;
            if half.position == METHOD_BYTES {
                begin(connection, now_ns);
            }
            return 1;
        }
        return header::rest_of_start_line(half, word, count);
    }
    if phase == Phase::HEADERS {
        let step = header::step(half, word, count, true);
        if step.over {
            begin_body(half);
        }
        return step.consumed;
    }
    if phase == Phase::CHUNK_SIZE {
        let step = chunk::size(half, word, count);
        if step.over {
            half.phase = if half.remaining == 0 { Phase::TRAILERS } else { Phase::CHUNK_DATA };
            // Includes the CR LF after the data.
            half.remaining += 2;
        }
        return step.consumed;
    }
    if phase == Phase::CHUNK_EXTENSION {
        return chunk::extension(half, word, count);
    }
    if phase == Phase::TRAILERS {
        let step = header::step(half, word, count, false);
        if step.over {
            half.phase = Phase::IDLE;
        }
        return step.consumed;
    }
    SKIP_SEGMENT
}

/// RFC 9112 §6.3: a request without Transfer-Encoding and Content-Length has no body.
#[inline(always)]
fn begin_body(half: &mut Half) {
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

#[inline(always)]
fn between_messages(connection: &mut Connection, byte: u8, now_ns: u64) -> u32 {
    if byte == b'\r' || byte == b'\n' {
        // RFC 9112 §2.2: empty lines before a request line are ignored.
        return 1;
    }
    if !is_upper(byte) {
        if connection.begun == 0 && is_tls_record(byte) {
            turn_opaque(connection, now_ns);
        } else {
            // Probably the middle of a request that started before the programs were attached.
            connection.request.lose_framing();
        }
        return SKIP_SEGMENT;
    }
    connection.request.begin_message();
    connection.pending[(connection.begun % MAX_PENDING) as usize].started_ns = now_ns;
    0
}

/// Starts a request once its method is known.
#[inline(always)]
fn begin(connection: &mut Connection, now_ns: u64) {
    let token = connection.request.token;
    if token != PRI && !is_method(token) {
        connection.request.lose_framing();
        return;
    }
    if token == PRI || connection.begun.wrapping_sub(connection.ended) >= MAX_PENDING {
        turn_opaque(connection, now_ns);
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
    connection.pending[(connection.begun % MAX_PENDING) as usize].begin(flags);
    connection.begun += 1;
    connection.request.unrecorded_bytes = u32::from(METHOD_BYTES);
}

#[inline(always)]
fn turn_opaque(connection: &mut Connection, now_ns: u64) {
    connection.opaque = 1;
    connection.request.effects.opaque = 1;
    connection.request.phase = Phase::LOST;
    requests::abort_all(connection, Direction::Ingress, now_ns);
    // The requests continue unseen.
    let ended = &mut connection.request.effects.ended;
    *ended = Ended { outcome: ended.outcome, ..Ended::default() };
}

/// Returns whether the byte is a TLS content type (RFC 8446 §5.1): control characters, with which no text starts.
#[inline(always)]
fn is_tls_record(byte: u8) -> bool {
    byte.wrapping_sub(20) < 4
}

#[inline(always)]
fn is_upper(byte: u8) -> bool {
    byte.wrapping_sub(b'A') < 26
}
