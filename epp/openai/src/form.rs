//! `multipart/form-data` (RFC 7578): transcriptions, image edits.

use memchr::memchr;

use super::model_name::MAX_MODEL_NAME_BYTES;
use super::scanner::{Part, Progress};
use super::{BodyError, ModelName};

/// Longest boundary (RFC 2046, 5.1.1).
pub(super) const MAX_BOUNDARY_BYTES: usize = 70;
/// Longest head of one part.
const MAX_PART_HEAD_BYTES: usize = 8 << 10;

/// Finds the part named `model` in a form that comes in pieces of any size. It keeps no bytes but those of a part's
/// head and of the model's name; files pass through it.
#[derive(Debug)]
pub struct FormScanner {
    /// A line's end, two dashes and the boundary.
    delimiter: Vec<u8>,
    state: State,
    model: Option<ModelName>,
}

#[derive(Debug)]
enum State {
    /// In the content of a part (or before the first), with so many bytes of a delimiter.
    Content {
        matched: usize,
        keeps: Option<Vec<u8>>,
    },
    /// Behind a boundary: a line's end, or the two dashes of the last one.
    AfterBoundary {
        seen: Vec<u8>,
    },
    Head(Vec<u8>),
    Finished,
}

impl FormScanner {
    pub(super) fn new(boundary: &[u8]) -> Self {
        let delimiter = [b"\r\n--", boundary].concat();
        // The first boundary has no line before it whose end it could take.
        Self { delimiter, state: State::Content { matched: 2, keeps: None }, model: None }
    }

    /// Takes the next bytes. After an error the scanner must not be fed again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest)?;
            rest = &rest[used..];
        }
        Ok(self.progress())
    }

    /// The next bytes that are all of the content of the part named `model`, or all of none: how many these
    /// are, at least one, and which of the two.
    pub(super) fn part(&mut self, bytes: &[u8]) -> Result<(usize, Part), BodyError> {
        let mut used = 0;
        let mut part = None;
        while let Some(byte) = bytes.get(used) {
            // No model's name has a carriage return: what begins with one is a delimiter, or an error.
            let is_content = matches!(self.state, State::Content { matched: 0, keeps: Some(_) });
            let next = if is_content && *byte != b'\r' { Part::Model } else { Part::Other };
            if *part.get_or_insert(next) != next {
                break;
            }
            let rest = &bytes[used..];
            let end = if next == Part::Model { memchr(b'\r', rest) } else { None };
            used += self.step(&rest[..end.unwrap_or(rest.len())])?;
        }
        Ok((used, part.unwrap_or(Part::Other)))
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<(), BodyError> {
        match (&self.state, &self.model) {
            (State::Finished, Some(_)) => Ok(()),
            (State::Finished, None) => Err(BodyError::ModelMissing),
            _ => Err(BodyError::Form("it ends before its last boundary")),
        }
    }

    pub fn model(&self) -> Option<&ModelName> {
        self.model.as_ref()
    }

    pub(super) fn progress(&self) -> Progress {
        match (&self.state, &self.model) {
            (State::Finished, _) => Progress::Finished,
            (_, Some(_)) => Progress::Model,
            (_, None) => Progress::Undecided,
        }
    }

    /// Uses at least one byte of `bytes`, which has at least one; gives how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        match &mut self.state {
            State::Finished => Ok(bytes.len()),
            State::Content { matched: 0, keeps } => {
                let used = memchr(b'\r', bytes).unwrap_or(bytes.len());
                keep(keeps, &bytes[..used])?;
                if used == bytes.len() {
                    return Ok(used);
                }
                self.state = State::Content { matched: 1, keeps: keeps.take() };
                Ok(used + 1)
            }
            State::Content { matched, keeps } => {
                if bytes[0] == self.delimiter[*matched] {
                    *matched += 1;
                    if *matched == self.delimiter.len() {
                        let kept = keeps.take();
                        self.state = State::AfterBoundary { seen: Vec::new() };
                        if let Some(name) = kept {
                            self.found(&name)?;
                        }
                    }
                    return Ok(1);
                }
                // A line's end is in the delimiter at its start only, so nothing of what matched can be
                // the start of another.
                keep(keeps, &self.delimiter[..*matched])?;
                *matched = 0;
                self.step(bytes)
            }
            State::AfterBoundary { seen } => {
                seen.push(bytes[0]);
                match &seen[..] {
                    b"--" => {
                        self.state = State::Finished;
                        if self.model.is_none() {
                            return Err(BodyError::ModelMissing);
                        }
                    }
                    b"\r\n" => self.state = State::Head(Vec::new()),
                    b"-" | b"\r" => {}
                    // Blanks may stand between a boundary and its line's end.
                    [b' ' | b'\t'] => seen.clear(),
                    _ => return Err(BodyError::Form("a boundary is followed by something else")),
                }
                Ok(1)
            }
            State::Head(head) => {
                head.push(bytes[0]);
                if head.len() > MAX_PART_HEAD_BYTES {
                    return Err(BodyError::Form("the head of a part is too long"));
                }
                if head == b"\r\n" || head.ends_with(b"\r\n\r\n") {
                    let keeps = is_model(head)?.then(Vec::new);
                    // What follows may be a boundary at once: the part is empty then.
                    self.state = State::Content { matched: 0, keeps };
                }
                Ok(1)
            }
        }
    }

    fn found(&mut self, name: &[u8]) -> Result<(), BodyError> {
        let name = ModelName::decoded(name)?;
        match &self.model {
            Some(first) if *first != name => Err(BodyError::ModelConflict),
            _ => {
                self.model = Some(name);
                Ok(())
            }
        }
    }
}

fn keep(keeps: &mut Option<Vec<u8>>, bytes: &[u8]) -> Result<(), BodyError> {
    let Some(kept) = keeps else { return Ok(()) };
    if kept.len() + bytes.len() > MAX_MODEL_NAME_BYTES {
        return Err(BodyError::ModelTooLong);
    }
    kept.extend_from_slice(bytes);
    Ok(())
}

/// Whether the part is the field `model`.
fn is_model(head: &[u8]) -> Result<bool, BodyError> {
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = memchr(b':', line) else { continue };
        if !line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let mut is_model = false;
        let mut is_file = false;
        for (name, value) in Parameters(&line[colon + 1..]) {
            is_model |= name.eq_ignore_ascii_case(b"name") && value == b"model";
            is_file |= name.eq_ignore_ascii_case(b"filename") || name.eq_ignore_ascii_case(b"filename*");
        }
        if is_model && is_file {
            return Err(BodyError::ModelNotAString);
        }
        return Ok(is_model);
    }
    Ok(false)
}

/// The parameters behind a header's first value: `; name="value"; other=value`.
pub(super) struct Parameters<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.0 = &self.0[memchr(b';', self.0)? + 1..];
            let end = self.0.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(self.0.len());
            let name = self.0[..end].trim_ascii();
            if self.0.get(end) != Some(&b'=') {
                self.0 = &self.0[end..];
                continue;
            }
            let value = self.0[end + 1..].trim_ascii_start();
            let Some(quoted) = value.strip_prefix(b"\"") else {
                let end = memchr(b';', value).unwrap_or(value.len());
                self.0 = &value[end..];
                return Some((name, value[..end].trim_ascii().to_vec()));
            };
            let mut decoded = Vec::new();
            let mut at = 0;
            while let Some(&byte) = quoted.get(at) {
                match byte {
                    b'"' => break,
                    b'\\' if matches!(quoted.get(at + 1), Some(b'"' | b'\\')) => {
                        at += 1;
                        decoded.push(quoted[at]);
                    }
                    _ => decoded.push(byte),
                }
                at += 1;
            }
            self.0 = &quoted[(at + 1).min(quoted.len())..];
            return Some((name, decoded));
        }
    }
}
