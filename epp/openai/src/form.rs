//! Scans `multipart/form-data` (RFC 7578), the format of transcriptions and image edits.

use memchr::{memchr, memmem};

use super::parameters::{self, Parameter};
use super::scanner::{Progress, Region};
use super::{BodyError, MAX_MODEL_NAME_BYTES, ModelName};

/// Maximum length of a boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;
/// Maximum length of the headers of one part.
const MAX_PART_HEADERS_BYTES: usize = 8 << 10;
const LINE_BREAK: &str = "a part's headers have a line break that is not CRLF";

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
    /// In the first boundary. Parsers differ in what they do with bytes before it, so there must be none.
    Start {
        /// Bytes of the delimiter that match so far.
        matched: usize,
    },
    /// In the content of a part.
    Content {
        /// Bytes of the delimiter that match so far.
        matched: usize,
        /// The content so far, if the part is the model.
        name: Option<Vec<u8>>,
        /// Bytes of the boundary that the content begins with. `None` after another byte.
        begin: Option<usize>,
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
        // The first boundary has no CRLF before it.
        Self { delimiter, state: State::Start { matched: 2 }, model: None }
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
            let is_content = matches!(self.state, State::Content { matched: 0, name: Some(_), .. });
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
            State::Start { matched } => {
                if bytes[0] != self.delimiter[*matched] {
                    return Err(BodyError::InvalidForm("it does not begin with the boundary"));
                }
                *matched += 1;
                if *matched == self.delimiter.len() {
                    self.state = State::AfterBoundary { seen: Vec::new() };
                }
                Ok(1)
            }
            State::Content { matched: 0, name, begin } => {
                let used = memchr(b'\r', bytes).unwrap_or(bytes.len());
                check_begin(begin, &self.delimiter[2..], &bytes[..used])?;
                append(name, &bytes[..used])?;
                if used == bytes.len() {
                    return Ok(used);
                }
                self.state = State::Content { matched: 1, name: name.take(), begin: None };
                Ok(used + 1)
            }
            State::Content { matched, name, .. } => {
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
            // Not even the whitespace that RFC 2046 §5.1.1 allows: python-multipart takes it for content.
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
            // Parsers that split at boundaries first would see the end of the part.
            if headers.starts_with(&self.delimiter[2..]) || memmem::find(headers, &self.delimiter).is_some() {
                return Err(BodyError::InvalidForm("the headers of a part contain the boundary"));
            }
            let name = is_model(headers)?.then(Vec::new);
            self.state = State::Content { matched: 0, name, begin: Some(0) };
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

/// Checks that the content of a part does not begin with two hyphens and the boundary. The line break of the headers could
/// be read as the one of the boundary (RFC 2046 §5.1.1): Go reads an empty part, Python content.
fn check_begin(begin: &mut Option<usize>, boundary: &[u8], content: &[u8]) -> Result<(), BodyError> {
    let Some(matched) = *begin else { return Ok(()) };
    let rest = &boundary[matched..];
    let length = rest.len().min(content.len());
    *begin = (rest[..length] == content[..length]).then_some(matched + length);
    if *begin == Some(boundary.len()) {
        return Err(BodyError::InvalidForm("the content of a part begins with the boundary"));
    }
    Ok(())
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
///
/// Parsers differ in folded lines, bare line breaks and repeated `Content-Disposition` lines: such headers are an error.
fn is_model(headers: &[u8]) -> Result<bool, BodyError> {
    let mut is_model = None;
    // Content of the part that is not plain UTF-8. It changes what a model is read as, so it is only an error there.
    let mut is_encoded = false;
    for line in headers.split(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\r") else {
            if line.is_empty() {
                // Behind the last line break.
                continue;
            }
            return Err(BodyError::InvalidForm(LINE_BREAK));
        };
        if line.is_empty() {
            continue;
        }
        if line.contains(&b'\r') {
            return Err(BodyError::InvalidForm(LINE_BREAK));
        }
        let colon = memchr(b':', line).unwrap_or(0);
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        if name.is_empty() || !name.iter().copied().all(parameters::is_token) {
            return Err(BodyError::InvalidForm("a part has an invalid header"));
        }
        if name.eq_ignore_ascii_case(b"content-disposition") {
            if is_model.is_some() {
                return Err(BodyError::InvalidForm("a part has more than one Content-Disposition"));
            }
            is_model = Some(is_model_disposition(value)?);
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain = [&b"7bit"[..], b"8bit", b"binary"];
            is_encoded |= !plain.iter().any(|plain| value.trim_ascii().eq_ignore_ascii_case(plain));
        } else if name.eq_ignore_ascii_case(b"content-type") {
            is_encoded |= parameters::parse(value).is_none_or(|(_, parameters)| !is_utf8(&parameters));
        }
    }
    match is_model {
        None => Err(BodyError::InvalidForm("a part has no Content-Disposition")),
        Some(true) if is_encoded => Err(BodyError::ModelCharacters),
        Some(is_model) => Ok(is_model),
    }
}

fn is_model_disposition(value: &[u8]) -> Result<bool, BodyError> {
    let (_, parameters) = parameters::parse(value)
        .filter(|(kind, _)| kind.eq_ignore_ascii_case(b"form-data"))
        .ok_or(BodyError::InvalidForm("a part has an unsupported Content-Disposition"))?;
    let name = parameters::find(&parameters, b"name")
        .ok_or(BodyError::InvalidForm("a part has a Content-Disposition without a name"))?;
    // A field of this name sets the charset of the others (HTML, multipart/form-data encoding algorithm).
    if name == b"_charset_" {
        return Err(BodyError::InvalidForm("it has a _charset_ field"));
    }
    let is_file = parameters.iter().any(|it| it.is(b"filename") || it.is(b"filename*"));
    match name {
        b"model" if is_file => Err(BodyError::ModelNotAString),
        name => Ok(name == b"model"),
    }
}

/// Whether the charset is UTF-8, which is the default. Starlette decodes fields with any charset of Python.
fn is_utf8(parameters: &[Parameter<'_>]) -> bool {
    parameters::find(parameters, b"charset").is_none_or(|charset| charset.eq_ignore_ascii_case(b"utf-8"))
}

/// The boundary of a `multipart/form-data` type (RFC 2046 §5.1.1).
pub(super) fn boundary(parameters: &[Parameter<'_>]) -> Result<Vec<u8>, BodyError> {
    if !is_utf8(parameters) {
        return Err(BodyError::InvalidForm("the charset is not utf-8"));
    }
    let is_valid = |boundary: &[u8]| {
        (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len())
            && boundary.iter().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(byte))
    };
    let boundary = parameters::find(parameters, b"boundary").filter(|boundary| is_valid(boundary));
    boundary.map(<[u8]>::to_vec).ok_or(BodyError::InvalidForm(
        "the Content-Type has no boundary of 1 to 70 letters, digits or '()+_,-./:=?",
    ))
}
