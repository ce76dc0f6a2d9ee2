//! Scans `multipart/form-data` (RFC 7578), the format of transcriptions and image edits.

use memchr::memchr;

use super::scanner::{Progress, Region};
use super::{BodyError, MAX_MODEL_NAME_BYTES, ModelName};

/// Maximum length of a boundary (RFC 2046 §5.1.1).
pub(super) const MAX_BOUNDARY_BYTES: usize = 70;
/// Maximum length of the headers of one part.
const MAX_PART_HEADERS_BYTES: usize = 8 << 10;

/// Finds the part named `model` in a form, which may be split at any byte. Keeps only the headers of the current part and
/// the model name; files are not kept.
#[derive(Debug)]
pub struct FormScanner {
    /// CRLF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    state: State,
    model: Option<ModelName>,
}

#[derive(Debug)]
enum State {
    /// In the content of a part, or before the first part.
    Content {
        /// Bytes of the delimiter that match so far.
        matched: usize,
        /// The content so far, if the part is the model.
        name: Option<Vec<u8>>,
    },
    /// After a boundary. Expects CRLF, or two hyphens after the last boundary.
    AfterBoundary {
        seen: Vec<u8>,
    },
    /// In the headers of a part.
    Headers(Vec<u8>),
    Finished,
}

impl FormScanner {
    pub(super) fn new(boundary: &[u8]) -> Self {
        let delimiter = [b"\r\n--", boundary].concat();
        // The first boundary may be at the start of the body, without a CRLF before it.
        Self { delimiter, state: State::Content { matched: 2, name: None }, model: None }
    }

    /// Reads the next bytes of the body, split anywhere.
    ///
    /// # Errors
    ///
    /// The form is invalid, or it has no usable model. Do not feed the scanner after an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest)?;
            rest = &rest[used..];
        }
        Ok(self.progress())
    }

    /// The length (at least one byte) and the kind of the next run of bytes of one kind: the content of the part `model`,
    /// or other bytes.
    pub(super) fn next_region(&mut self, bytes: &[u8]) -> Result<(usize, Region), BodyError> {
        let mut used = 0;
        let mut region = None;
        while let Some(byte) = bytes.get(used) {
            // A model name cannot contain a carriage return: one starts a delimiter, or is an error.
            let is_content = matches!(self.state, State::Content { matched: 0, name: Some(_) });
            let next = if is_content && *byte != b'\r' { Region::Model } else { Region::Other };
            if *region.get_or_insert(next) != next {
                break;
            }
            let rest = &bytes[used..];
            let end = if next == Region::Model { memchr(b'\r', rest) } else { None };
            used += self.step(&rest[..end.unwrap_or(rest.len())])?;
        }
        Ok((used, region.unwrap_or(Region::Other)))
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    ///
    /// The form is incomplete, or it has no model.
    pub fn finish(&self) -> Result<(), BodyError> {
        match (&self.state, &self.model) {
            (State::Finished, Some(_)) => Ok(()),
            (State::Finished, None) => Err(BodyError::ModelMissing),
            _ => Err(BodyError::InvalidForm("it ends before the last boundary")),
        }
    }

    /// The model, once it is known.
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

    /// Consumes at least one byte. `bytes` must not be empty. Returns the number of bytes consumed.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        match &mut self.state {
            State::Finished => Ok(bytes.len()),
            State::Content { matched: 0, name } => {
                let used = memchr(b'\r', bytes).unwrap_or(bytes.len());
                append(name, &bytes[..used])?;
                if used == bytes.len() {
                    return Ok(used);
                }
                self.state = State::Content { matched: 1, name: name.take() };
                Ok(used + 1)
            }
            State::Content { matched, name } => {
                if bytes[0] == self.delimiter[*matched] {
                    *matched += 1;
                    if *matched == self.delimiter.len() {
                        let name = name.take();
                        self.state = State::AfterBoundary { seen: Vec::new() };
                        if let Some(name) = name {
                            self.set_model(&name)?;
                        }
                    }
                    return Ok(1);
                }
                // Only the first byte of a delimiter is a carriage return, so no other delimiter starts within the
                // matched bytes.
                append(name, &self.delimiter[..*matched])?;
                *matched = 0;
                self.step(bytes)
            }
            State::AfterBoundary { .. } => {
                self.after_boundary(bytes[0])?;
                Ok(1)
            }
            State::Headers(_) => {
                self.headers(bytes[0])?;
                Ok(1)
            }
        }
    }

    fn after_boundary(&mut self, byte: u8) -> Result<(), BodyError> {
        let State::AfterBoundary { seen } = &mut self.state else { return Ok(()) };
        seen.push(byte);
        match &seen[..] {
            b"--" => {
                self.state = State::Finished;
                if self.model.is_none() {
                    return Err(BodyError::ModelMissing);
                }
            }
            b"\r\n" => self.state = State::Headers(Vec::new()),
            b"-" | b"\r" => {}
            // Transport padding (RFC 2046 §5.1.1).
            [b' ' | b'\t'] => seen.clear(),
            _ => return Err(BodyError::InvalidForm("unexpected bytes after a boundary")),
        }
        Ok(())
    }

    fn headers(&mut self, byte: u8) -> Result<(), BodyError> {
        let State::Headers(headers) = &mut self.state else { return Ok(()) };
        headers.push(byte);
        if headers.len() > MAX_PART_HEADERS_BYTES {
            return Err(BodyError::InvalidForm("the headers of a part are too long"));
        }
        if headers == b"\r\n" || headers.ends_with(b"\r\n\r\n") {
            let name = is_model(headers)?.then(Vec::new);
            self.state = State::Content { matched: 0, name };
        }
        Ok(())
    }

    fn set_model(&mut self, name: &[u8]) -> Result<(), BodyError> {
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

/// Appends content to the model name, if the part is the model.
fn append(name: &mut Option<Vec<u8>>, bytes: &[u8]) -> Result<(), BodyError> {
    let Some(name) = name else { return Ok(()) };
    if name.len() + bytes.len() > MAX_MODEL_NAME_BYTES {
        return Err(BodyError::ModelTooLong);
    }
    name.extend_from_slice(bytes);
    Ok(())
}

/// Whether the part with these headers is the field `model` (RFC 7578 §4.2).
fn is_model(headers: &[u8]) -> Result<bool, BodyError> {
    for line in headers.split(|byte| *byte == b'\n') {
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

/// Name and value of the parameters of a header: `; name="value"; other=value` (RFC 9110 §5.6.6).
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
