use memchr::memchr2;

use super::model_finder::ModelFinder;
use crate::scanner::Region;

/// Finds `model` members in the data of each event of a stream (WHATWG HTML §9.2.5). Several `data` lines of one event
/// form one JSON text.
#[derive(Debug)]
pub(super) struct EventStream {
    line: Line,
    data: ModelFinder,
    /// The last byte was a carriage return. A line feed after it belongs to the same line end.
    is_after_return: bool,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    /// Number of bytes so far, which match the start of [`FIELD`].
    Field(usize),
    Data,
    /// Another field or a comment.
    Other,
}

const FIELD: &[u8] = b"data:";

impl Default for EventStream {
    fn default() -> Self {
        Self { line: Line::Field(0), data: ModelFinder::in_event(), is_after_return: false }
    }
}

impl EventStream {
    /// The length (at least one byte) and the kind of the next run of bytes of one kind.
    pub(super) fn next_region(&mut self, bytes: &[u8]) -> (usize, Region) {
        let byte = bytes[0];
        if matches!(byte, b'\r' | b'\n') {
            self.end_line(byte);
            return (1, Region::Other);
        }
        self.is_after_return = false;
        match self.line {
            Line::Field(matched) => {
                self.line = match matched + 1 {
                    _ if byte != FIELD[matched] => Line::Other,
                    all if all == FIELD.len() => Line::Data,
                    more => Line::Field(more),
                };
                (1, Region::Other)
            }
            Line::Data => self.data.next_region(line_rest(bytes)),
            Line::Other => (line_rest(bytes).len(), Region::Other),
        }
    }

    fn end_line(&mut self, end: u8) {
        let is_second_byte = end == b'\n' && self.is_after_return;
        self.is_after_return = end == b'\r';
        if is_second_byte {
            return;
        }
        if matches!(self.line, Line::Field(0)) {
            // An empty line ends the event.
            self.data = ModelFinder::in_event();
        }
        self.line = Line::Field(0);
    }
}

/// The bytes before the next line end.
fn line_rest(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())]
}
