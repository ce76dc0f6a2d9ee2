//! One step of the server's direction (RFC 9112 §4, §6).

use super::{
    chunk,
    ended::{Ended, Outcome, Reply},
    half::{Half, Phase, Prelude},
    header,
    payload::{Payload, through_line_feed},
    requests::{self, Direction},
    sequence,
    state::{Connection, MAX_PENDING, SKIP_SEGMENT},
};

/// `HTTP/1.` as a little-endian word.
const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.\0");

/// `0\r\n\r\n`, the last chunk without trailers, as a little-endian word.
const TERMINATOR: u64 = 0x0a_0d_0a_0d_30;

/// Returns whether a payload ends like a chunked body. Used only after framing was lost: generated text may contain the
/// same bytes.
#[inline(always)]
pub(super) fn ends_with_terminator<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 5 && payload.word(length - 5, 5) == TERMINATOR
}

/// Returns whether a payload may be the start of a response.
#[inline(always)]
pub(super) fn looks_like_start<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 7 && payload.word(0, 7) == VERSION
}

/// Starts a response after framing was lost. If two requests are open, the older one's response has ended unseen; its
/// duration is unknown.
#[inline(always)]
pub(super) fn begin_after_loss(connection: &mut Connection, seq: u32) {
    sequence::resume_at(&mut connection.response, seq);
    let oldest = connection.ended;
    if connection.begun.wrapping_sub(oldest) < 2 {
        return;
    }
    let counted = connection.pending[(oldest % MAX_PENDING) as usize].is_counted();
    let status = if connection.response.index == oldest { connection.reply.status } else { 0 };
    if requests::end(connection, oldest, Direction::Egress) && counted {
        finish(connection, Ended { status, outcome: Outcome::FINISHED, ..Ended::default() });
    }
}

/// Reads the next bytes of a response: `word` has the first 8 of `left` bytes. Returns the number of bytes consumed, or
/// [`SKIP_SEGMENT`].
///
/// Never inlined, like `request::step`.
#[inline(never)]
pub(super) fn step(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
    let count = if left > 8 { 8 } else { left };
    let byte = word as u8;
    let phase = connection.response.phase;
    if phase == Phase::SIZED_BODY || phase == Phase::CHUNK_DATA || phase == Phase::UNSIZED_BODY {
        return body(connection, word, left, now_ns);
    }
    let half = &mut connection.response;
    if phase == Phase::CHUNK_SIZE {
        let step = chunk::size(half, word, count);
        if step.over && half.remaining == 0 {
            half.phase = Phase::TRAILERS;
        } else if step.over {
            half.phase = Phase::CHUNK_DATA;
            half.chunk_start = 1;
            // Includes the CR LF after the data.
            half.remaining += 2;
        }
        return step.consumed;
    }
    if phase == Phase::IDLE {
        return between_messages(connection, byte);
    }
    if phase == Phase::START_LINE {
        // The status is at bytes 9 to 11 of `HTTP/1.1 200 OK` (RFC 9112 §4).
        if half.position < 12 {
            if half.position >= 9 {
                half.token = half.token * 10 + u32::from(byte.wrapping_sub(b'0') & 15);
            }
            half.position += 1;
            return 1;
        }
        return header::rest_of_start_line(half, word, count);
    }
    if phase == Phase::HEADERS {
        let step = header::step(half, word, count, true);
        if step.over {
            headers_complete(connection, now_ns);
        }
        return step.consumed;
    }
    if phase == Phase::TRAILERS {
        let step = header::step(half, word, count, false);
        if step.over {
            let unread = half.unread().wrapping_sub(step.consumed);
            end(connection, unread, now_ns);
        }
        return step.consumed;
    }
    if phase == Phase::CHUNK_EXTENSION {
        return chunk::extension(half, word, count);
    }
    SKIP_SEGMENT
}

#[inline(always)]
fn between_messages(connection: &mut Connection, byte: u8) -> u32 {
    if connection.begun == connection.ended {
        // No request is open, or it started before the programs were attached.
        return SKIP_SEGMENT;
    }
    let half = &mut connection.response;
    half.index = connection.ended;
    connection.reply.begin(half.unread());
    if byte != b'H' {
        half.lose_framing();
        return SKIP_SEGMENT;
    }
    half.begin_message();
    half.last_chunk_ns = 0;
    half.counted = u8::from(connection.pending[(half.index % MAX_PENDING) as usize].is_counted());
    0
}

#[inline(always)]
fn headers_complete(connection: &mut Connection, now_ns: u64) {
    let half = &mut connection.response;
    let status = half.token;
    if status < 200 && status != 101 {
        // An interim response (RFC 9110 §15.2): the final one follows.
        half.phase = Phase::IDLE;
        return;
    }
    let pending = &connection.pending[(half.index % MAX_PENDING) as usize];
    if pending.is_counted() {
        if status >= 500 {
            half.effects.responses_5xx += 1;
        } else if status >= 400 {
            half.effects.responses_4xx += 1;
        } else if (200..300).contains(&status) {
            half.effects.responses_2xx += 1;
        }
    }
    connection.reply.status = status as u16;
    // Without the line feed that ends the head.
    let unread = half.unread().wrapping_sub(1);
    if pending.has_no_body() || status == 204 || status == 304 {
        end(connection, unread, now_ns);
    } else if status == 101 {
        half.phase = Phase::UNSIZED_BODY;
    } else if half.chunked != 0 {
        half.remaining = 0;
        half.phase = Phase::CHUNK_SIZE;
    } else if half.sized == 0 {
        half.phase = Phase::UNSIZED_BODY;
    } else if half.length == 0 {
        end(connection, unread, now_ns);
    } else {
        half.remaining = half.length;
        half.phase = Phase::SIZED_BODY;
    }
}

/// Skips body bytes, except the first one of each chunk and everything before the first content.
#[inline(always)]
fn body(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
    if connection.response.body_started == 0 {
        connection.response.body_started = 1;
        let number = connection.response.index;
        let waiting = connection.pending[(number % MAX_PENDING) as usize].stop_waiting();
        connection.response.effects.waiting_bytes -= waiting;
    }
    let half = &mut connection.response;
    let byte = word as u8;
    let unsized_body = half.phase == Phase::UNSIZED_BODY;
    let mut available = left;
    if !unsized_body && half.remaining < u64::from(left) {
        available = half.remaining as u32;
    }
    if half.chunk_start != 0 {
        half.chunk_start = 0;
        if byte != b':' && half.counted != 0 {
            count_chunk(half, &mut connection.reply, now_ns);
        }
    }
    let mut consumed = available;
    if half.prelude == Prelude::LINE_START {
        if byte == b':' {
            half.prelude = Prelude::COMMENT;
            consumed = 1;
        } else if byte == b'\r' || byte == b'\n' {
            consumed = 1;
        } else {
            half.prelude = Prelude::OVER;
            let pending = connection.pending[(half.index % MAX_PENDING) as usize];
            if pending.is_counted() {
                let ttft_ns = now_ns.saturating_sub(pending.started_ns);
                half.effects.ttft_ns = ttft_ns;
                connection.reply.ttft_ns = ttft_ns;
                connection.reply.has_content = 1;
            }
        }
    } else if half.prelude == Prelude::COMMENT {
        let count = if available > 8 { 8 } else { available };
        let found = through_line_feed(word, count);
        consumed = count;
        if found != 0 {
            half.prelude = Prelude::LINE_START;
            consumed = found;
        }
    }
    if !unsized_body {
        half.remaining -= u64::from(consumed);
        if half.remaining == 0 {
            if half.phase == Phase::CHUNK_DATA {
                half.phase = Phase::CHUNK_SIZE;
            } else {
                let unread = half.unread().wrapping_sub(consumed);
                end(connection, unread, now_ns);
            }
        }
    }
    consumed
}

#[inline(always)]
fn count_chunk(half: &mut Half, reply: &mut Reply, now_ns: u64) {
    half.effects.chunks += 1;
    reply.chunks = reply.chunks.saturating_add(1);
    if half.last_chunk_ns != 0 && half.effects.itl_ns == 0 {
        half.effects.itl_ns = now_ns.saturating_sub(half.last_chunk_ns);
    }
    half.last_chunk_ns = now_ns;
}

/// Completes the response, `unread` bytes before the end of the segment. That finishes its request, unless it was aborted
/// before.
#[inline(always)]
pub(super) fn end(connection: &mut Connection, unread: u32, now_ns: u64) {
    let is_lost = connection.response.phase == Phase::LOST;
    connection.response.phase = Phase::IDLE;
    let number = connection.response.index;
    if number == connection.begun {
        return;
    }
    let pending = connection.pending[(number % MAX_PENDING) as usize];
    if requests::end(connection, number, Direction::Egress) && pending.is_counted() {
        let duration_ns = now_ns.saturating_sub(pending.started_ns);
        let ended = connection.reply.ended(Outcome::FINISHED, unread, is_lost, duration_ns);
        finish(connection, ended);
    }
}

#[inline(always)]
fn finish(connection: &mut Connection, ended: Ended) {
    let effects = &mut connection.response.effects;
    effects.finished += 1;
    if effects.ended.outcome == Outcome::NONE || effects.ended.known == 0 {
        effects.ended = ended;
    }
}
