use memchr::memchr2;

use super::Part;
use super::members::Members;

/// Finds the `model` in the data of each event of a stream (WHATWG HTML, 9.2.5). Data in several lines are one text.
#[derive(Debug)]
pub(super) struct Events {
    line: Line,
    data: Members,
    /// The last byte was a carriage return: a line feed belongs to it.
    is_after_return: bool,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    /// So many bytes of it, which are the start of [`FIELD`].
    Field(usize),
    Data,
    /// Another field, or a comment.
    Other,
}

const FIELD: &[u8] = b"data:";

impl Default for Events {
    fn default() -> Self {
        Self { line: Line::Field(0), data: Members::of_event(), is_after_return: false }
    }
}

impl Events {
    /// The next bytes that are all of one kind: how many, at least one, and which.
    pub(super) fn part(&mut self, bytes: &[u8]) -> (usize, Part) {
        let byte = bytes[0];
        if matches!(byte, b'\r' | b'\n') {
            self.end_line(byte);
            return (1, Part::Other);
        }
        self.is_after_return = false;
        match self.line {
            Line::Field(matched) => {
                self.line = match matched + 1 {
                    _ if byte != FIELD[matched] => Line::Other,
                    all if all == FIELD.len() => Line::Data,
                    more => Line::Field(more),
                };
                (1, Part::Other)
            }
            Line::Data => self.data.part(of_line(bytes)),
            Line::Other => (of_line(bytes).len(), Part::Other),
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
            self.data = Members::of_event();
        }
        self.line = Line::Field(0);
    }
}

fn of_line(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())]
}
