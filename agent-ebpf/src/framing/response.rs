//! The server's direction.

use super::{
    Payload, chunk, claim,
    connection::{Connection, LEAVE, MAX_PENDING, pending},
    half::{Phase, Prelude},
    head, sequence, through_line_feed,
};

/// `HTTP/1.`, lowest byte first.
const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.\0");

/// `0\r\n\r\n`, the last chunk without trailers, lowest byte first.
const TERMINATOR: u64 = 0x0a_0d_0a_0d_30;

/// Whether a payload ends like a chunked body. Only for a response whose framing
/// is lost: generated text could hold the same bytes.
#[inline(always)]
pub(super) fn ends_with_terminator<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 5 && payload.word(length - 5, 5) == TERMINATOR
}

/// Whether a payload may be the start of a response.
#[inline(always)]
pub(super) fn looks_like_start<P: Payload + ?Sized>(payload: &P, length: u32) -> bool {
    length >= 7 && payload.word(0, 7) == VERSION
}

/// A response begins where the last one's framing was lost. When two requests are
/// open, the older one's response has ended unseen; when is not known.
#[inline(always)]
pub(super) fn begin_anew(connection: &mut Connection, seq: u32) {
    sequence::resume_at(&mut connection.response, seq);
    let oldest = connection.ended;
    if connection.begun.wrapping_sub(oldest) < 2 || !claim::advance(&mut connection.ended, oldest) {
        return;
    }
    if connection.pending[(oldest % MAX_PENDING) as usize].flags & pending::COUNTED != 0 {
        connection.response.effects.finished += 1;
    }
}

/// Reads a little of a response: `word` has the next bytes (at most 8 of `left`).
/// Returns how many were consumed, or [`LEAVE`].
///
/// Never inlined, like its twin for requests.
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
        if byte == b'\n' {
            if half.remaining == 0 {
                half.phase = Phase::TRAILERS;
            } else {
                half.phase = Phase::CHUNK_DATA;
                half.chunk_start = 1;
                // The chunk's own CR LF is skipped with it.
                half.remaining += 2;
            }
            return 1;
        }
        return chunk::size_byte(half, byte);
    }
    if phase == Phase::IDLE {
        if connection.begun == connection.ended {
            // Nothing was asked, or it began before we watched.
            return LEAVE;
        }
        half.index = connection.ended;
        if byte != b'H' {
            half.lose();
            return LEAVE;
        }
        half.begin_message();
        half.last_chunk_ns = 0;
        return 0;
    }
    if phase == Phase::START_LINE {
        // HTTP/1.1 200 OK
        if half.position < 12 {
            if half.position >= 9 {
                half.token = half.token * 10 + u32::from(byte.wrapping_sub(b'0') & 15);
            }
            half.position += 1;
            return 1;
        }
        return head::rest_of_start_line(half, word, count);
    }
    if phase == Phase::HEADERS {
        let step = head::step(half, word, count, true);
        if step.over {
            head_is_over(connection, now_ns);
        }
        return step.consumed;
    }
    if phase == Phase::TRAILERS {
        let step = head::step(half, word, count, false);
        if step.over {
            end(connection, now_ns);
        }
        return step.consumed;
    }
    if phase == Phase::CHUNK_EXTENSION {
        return chunk::extension(half, word, count);
    }
    LEAVE
}

#[inline(always)]
fn head_is_over(connection: &mut Connection, now_ns: u64) {
    let half = &mut connection.response;
    let status = half.token;
    if status < 200 && status != 101 {
        // An interim response: the real one follows.
        half.phase = Phase::IDLE;
        return;
    }
    let flags = connection.pending[(half.index % MAX_PENDING) as usize].flags;
    if flags & pending::COUNTED != 0 {
        if status >= 500 {
            half.effects.responses_5xx += 1;
        } else if status >= 400 {
            half.effects.responses_4xx += 1;
        } else if (200..300).contains(&status) {
            half.effects.responses_2xx += 1;
        }
    }
    half.effects.status = status;
    if flags & pending::NO_BODY != 0 || status == 204 || status == 304 {
        end(connection, now_ns);
    } else if status == 101 {
        half.phase = Phase::UNSIZED_BODY;
    } else if half.chunked != 0 {
        half.remaining = 0;
        half.phase = Phase::CHUNK_SIZE;
    } else if half.sized == 0 {
        half.phase = Phase::UNSIZED_BODY;
    } else if half.length == 0 {
        end(connection, now_ns);
    } else {
        half.remaining = half.length;
        half.phase = Phase::SIZED_BODY;
    }
}

/// Body bytes: skipped, but for the first of a chunk and for what comes before the
/// first content.
#[inline(always)]
fn body(connection: &mut Connection, word: u64, left: u32, now_ns: u64) -> u32 {
    let half = &mut connection.response;
    let byte = word as u8;
    let unsized_body = half.phase == Phase::UNSIZED_BODY;
    let mut available = left;
    if !unsized_body && half.remaining < u64::from(left) {
        available = half.remaining as u32;
    }
    if half.chunk_start != 0 {
        half.chunk_start = 0;
        if byte != b':' {
            half.effects.chunks += 1;
            if half.last_chunk_ns != 0 && half.effects.itl_ns == 0 {
                half.effects.itl_ns = now_ns.saturating_sub(half.last_chunk_ns);
            }
            half.last_chunk_ns = now_ns;
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
            if pending.flags & pending::COUNTED != 0 {
                half.effects.ttft_ns = now_ns.saturating_sub(pending.started_ns);
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
                end(connection, now_ns);
            }
        }
    }
    consumed
}

/// The response is complete. Its request is finished, unless it was aborted before.
#[inline(always)]
pub(super) fn end(connection: &mut Connection, now_ns: u64) {
    let half = &mut connection.response;
    half.phase = Phase::IDLE;
    let index = half.index;
    if index == connection.begun || !claim::advance(&mut connection.ended, index) {
        return;
    }
    let pending = connection.pending[(index % MAX_PENDING) as usize];
    if pending.flags & pending::COUNTED != 0 {
        half.effects.finished += 1;
        half.effects.duration_ns = now_ns.saturating_sub(pending.started_ns);
        half.effects.status = half.token;
    }
}
