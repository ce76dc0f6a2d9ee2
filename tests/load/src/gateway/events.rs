//! Counts the tokens of a stream.

const EVENT: &[u8] = b"data: {";
const DONE: &[u8] = b"data: [DONE]";

/// Counts SSE events in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Events {
    tail: Vec<u8>,
    pub(crate) seen: u32,
    pub(crate) done: bool,
}

impl Events {
    /// Reads a piece. Returns the number of events that ended the search pattern in it.
    pub(crate) fn read(&mut self, piece: &[u8]) -> u32 {
        let old = self.tail.len();
        self.tail.extend_from_slice(piece);
        let count = |needle: &[u8]| {
            let first = (old + 1).saturating_sub(needle.len());
            self.tail.windows(needle.len()).skip(first).filter(|window| *window == needle).count()
        };
        let seen = count(EVENT) as u32;
        self.seen += seen;
        self.done |= count(DONE) > 0;
        let kept = self.tail.len().min(DONE.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        seen
    }
}
