//! Header lines: only `Content-Length` and `Transfer-Encoding: chunked` matter.

use super::{
    half::{Half, Phase},
    through_line_feed,
};

const CONTENT_LENGTH: &[u8; 16] = b"content-length:\0";
const TRANSFER_ENCODING: &[u8; 32] = b"transfer-encoding:\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CHUNKED: &[u8; 8] = b"chunked\0";

/// A body longer than this is not believed (2^53 bytes).
const MAX_LENGTH: u64 = 1 << 53;

/// Where in a header line a direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Line(u8);

impl Line {
    pub(super) const START: Self = Self(0);
    /// An uninteresting line, to its line feed.
    const SKIP: Self = Self(1);
    const NAME_CONTENT_LENGTH: Self = Self(2);
    const NAME_TRANSFER_ENCODING: Self = Self(3);
    const VALUE_CONTENT_LENGTH: Self = Self(4);
    const VALUE_TRANSFER_ENCODING: Self = Self(5);
    /// CR of the empty line.
    const BLANK: Self = Self(6);
}

/// Skips the rest of a start line, up to the headers.
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
    /// The empty line was consumed: the header section (or the trailers) is over.
    pub(super) over: bool,
}

/// Reads a little of a header section. `names` says whether names matter (in
/// trailers they do not).
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
    // Inside a line that may matter: a line feed always ends it.
    if byte == b'\n' {
        half.line = Line::START;
        return Step { consumed: 1, over: false };
    }
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
            // The number is over: a list repeats it (RFC 9110, 8.6).
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
    Step { consumed: 1, over: false }
}
