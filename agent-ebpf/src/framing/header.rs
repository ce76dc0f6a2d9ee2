//! Header lines. Only `Content-Length` and `Transfer-Encoding: chunked` matter (RFC 9112 §6).

use super::{
    half::{Half, Line, Phase},
    payload::through_line_feed,
};

const CONTENT_LENGTH: &[u8; 16] = b"content-length:\0";
const TRANSFER_ENCODING: &[u8; 32] = b"transfer-encoding:\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CHUNKED: &[u8; 8] = b"chunked\0";

/// Upper bound on Content-Length (2^53 bytes). Further digits are ignored.
const MAX_LENGTH: u64 = 1 << 53;

/// Skips the rest of a start line, including its line feed.
#[inline(always)]
pub(super) fn rest_of_start_line(half: &mut Half, word: u64, count: u32) -> u32 {
    let found = through_line_feed(word, count);
    if found == 0 {
        return count;
    }
    half.phase = Phase::HEADERS;
    found
}

pub(super) struct Step {
    pub(super) consumed: u32,
    /// The line feed was consumed that ends the section, or the line of a chunk size.
    pub(super) over: bool,
}

/// Reads the next bytes of a header section, or of a trailer section if `names` is `false`: names in trailers do not
/// matter.
#[inline(always)]
pub(super) fn step(half: &mut Half, word: u64, count: u32, names: bool) -> Step {
    let byte = word as u8;
    let lower = byte | 0x20;
    let line = half.line;
    if line == Line::SKIP {
        let found = through_line_feed(word, count);
        if found != 0 {
            half.line = Line::START;
            return Step { consumed: found, over: false };
        }
        return Step { consumed: count, over: false };
    }
    if line == Line::START {
        if byte == b'\n' {
            return Step { consumed: 1, over: true };
        }
        half.line = if byte == b'\r' {
            Line::BLANK
        } else if names && lower == b'c' {
            half.matched = 1;
            Line::NAME_CONTENT_LENGTH
        } else if names && lower == b't' {
            half.matched = 1;
            Line::NAME_TRANSFER_ENCODING
        } else {
            Line::SKIP
        };
        return Step { consumed: 1, over: false };
    }
    if line == Line::BLANK {
        if byte == b'\n' {
            half.line = Line::START;
            return Step { consumed: 1, over: true };
        }
        half.line = Line::SKIP;
        return Step { consumed: 0, over: false };
    }
    // A line feed ends every line.
    if byte == b'\n' {
        half.line = Line::START;
        return Step { consumed: 1, over: false };
    }
    name_or_value(half, byte);
    Step { consumed: 1, over: false }
}

/// Compares one byte with the name or value that the line may have.
#[inline(always)]
fn name_or_value(half: &mut Half, byte: u8) {
    let lower = byte | 0x20;
    let line = half.line;
    if line == Line::NAME_CONTENT_LENGTH {
        if lower == CONTENT_LENGTH[(half.matched & 15) as usize] | 0x20 {
            half.matched += 1;
            if half.matched == 15 {
                half.line = Line::VALUE_CONTENT_LENGTH;
                half.matched = 0;
                half.length = 0;
                half.sized = 1;
            }
        } else {
            half.line = Line::SKIP;
        }
    } else if line == Line::NAME_TRANSFER_ENCODING {
        if lower == TRANSFER_ENCODING[(half.matched & 31) as usize] | 0x20 {
            half.matched += 1;
            if half.matched == 18 {
                half.line = Line::VALUE_TRANSFER_ENCODING;
                half.matched = 0;
            }
        } else {
            half.line = Line::SKIP;
        }
    } else if line == Line::VALUE_CONTENT_LENGTH {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            half.matched = 1;
            if half.length < MAX_LENGTH {
                half.length = half.length * 10 + u64::from(digit);
            }
        } else if half.matched != 0 || (byte != b' ' && byte != b'\t') {
            // End of the number. A list may only repeat the same one (RFC 9110 §8.6).
            half.line = Line::SKIP;
        }
    } else if lower == CHUNKED[(half.matched & 7) as usize] {
        half.matched += 1;
        if half.matched == 7 {
            half.chunked = 1;
            half.line = Line::SKIP;
        }
    } else {
        half.matched = u8::from(lower == b'c');
    }
}
