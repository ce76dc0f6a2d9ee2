use super::nested::NestedValue;
use super::string::{KeyMatcher, KeyStep, StringState, ValueDecoder, plain_string, skip_string};
use super::{BodyError, ModelName};

/// Progress of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No `model` at the root so far.
    Undecided,
    /// The model is known. The root object has not ended; a conflicting `model` may follow.
    Model,
    /// The root object has ended. Further bytes are ignored.
    Finished,
}

/// Kind of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// The value of a `model` member.
    Model,
    /// All other bytes.
    Other,
}

/// Finds the `model` member of a JSON root object (RFC 8259). The body may be split at any byte.
///
/// It keeps only the model name, and it does not recurse. It does not validate other members; the engine does. It reads
/// every document that an engine accepts correctly, including escapes in keys and values, `NaN`, lone surrogates, and
/// invalid UTF-8 in other members.
///
/// # Examples
///
/// ```
/// use forebay_openai::{ModelScanner, Progress};
///
/// let mut scanner = ModelScanner::default();
/// assert_eq!(scanner.feed(br#"{"stream":true,"model":"Qwen/Qw"#)?, Progress::Undecided);
/// assert_eq!(scanner.feed(br#"en3-0.6B","messages":[]}"#)?, Progress::Finished);
/// scanner.finish()?;
/// assert_eq!(scanner.model().map(|model| model.as_str()), Some("Qwen/Qwen3-0.6B"));
/// # Ok::<(), forebay_openai::BodyError>(())
/// ```
#[derive(Debug)]
pub struct ModelScanner {
    state: State,
    model: Option<ModelName>,
}

#[derive(Debug)]
enum State {
    /// Before the root object. `seen`: bytes of a byte order mark so far.
    Start {
        seen: u8,
    },
    FirstKeyOrEnd,
    Key,
    InKey(KeyMatcher),
    /// In a key that is not `model`.
    SkipKey(StringState),
    Colon {
        is_model: bool,
    },
    Value,
    ModelValue,
    InModelValue(ValueDecoder),
    SkipValue(StringState),
    /// In a number, `true`, `NaN` or similar, directly below the root.
    Scalar,
    AfterValue,
    /// In an object or array below the root.
    Nested(NestedValue),
    Finished,
}

impl Default for ModelScanner {
    fn default() -> Self {
        Self { state: State::Start { seen: 0 }, model: None }
    }
}

impl ModelScanner {
    /// Reads the next bytes of the body, split anywhere.
    ///
    /// # Errors
    ///
    /// The body is invalid, or it has no usable model. Do not feed the scanner after an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest)?;
            rest = &rest[used..];
        }
        Ok(self.progress())
    }

    /// The length (at least one byte) and the kind of the next run of bytes of one kind. A value includes its quotes.
    pub(super) fn next_region(&mut self, bytes: &[u8]) -> Result<(usize, Region), BodyError> {
        let mut used = 0;
        let mut region = None;
        while let Some(byte) = bytes.get(used) {
            let next = match self.state {
                State::InModelValue(_) => Region::Model,
                State::ModelValue if *byte == b'"' => Region::Model,
                _ => Region::Other,
            };
            if *region.get_or_insert(next) != next {
                break;
            }
            used += self.step(&bytes[used..])?;
        }
        Ok((used, region.unwrap_or(Region::Other)))
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    ///
    /// The body is empty or incomplete.
    pub fn finish(&self) -> Result<(), BodyError> {
        match self.state {
            State::Finished => Ok(()),
            State::Start { .. } => Err(BodyError::Empty),
            _ => Err(BodyError::Truncated),
        }
    }

    /// The progress so far.
    pub fn progress(&self) -> Progress {
        match (&self.state, &self.model) {
            (State::Finished, _) => Progress::Finished,
            (_, Some(_)) => Progress::Model,
            (_, None) => Progress::Undecided,
        }
    }

    /// The model, once it is known.
    pub fn model(&self) -> Option<&ModelName> {
        self.model.as_ref()
    }

    /// Consumes at least one byte. `bytes` must not be empty. Returns the number of bytes consumed.
    // Longer than the limit: one arm per state of the parser, in one function for the speed of the hot path.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let byte = bytes[0];
        match &mut self.state {
            State::Nested(nested) => {
                let Some(used) = nested.skip(bytes)? else { return Ok(bytes.len()) };
                self.state = State::AfterValue;
                return Ok(used);
            }
            State::SkipKey(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == StringState::Ended {
                    self.state = State::Colon { is_model: false };
                }
                return Ok(used);
            }
            State::SkipValue(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == StringState::Ended {
                    self.state = State::AfterValue;
                }
                return Ok(used);
            }
            State::InKey(key) => match key.push(byte)? {
                KeyStep::More => {}
                KeyStep::Other => self.state = State::SkipKey(StringState::Inside),
                KeyStep::End { is_model } => self.state = State::Colon { is_model },
            },
            State::InModelValue(value) => {
                if let Some(name) = value.push(byte)? {
                    self.set_model(name)?;
                    self.state = State::AfterValue;
                }
            }
            State::Finished => return Ok(bytes.len()),
            State::Start { seen } => {
                self.state = match before_root(byte, *seen)? {
                    Some(seen) => State::Start { seen },
                    None => State::FirstKeyOrEnd,
                };
            }
            _ if is_whitespace(byte) => {
                if matches!(self.state, State::Scalar) {
                    self.state = State::AfterValue;
                }
            }
            State::FirstKeyOrEnd if byte == b'}' => self.close_root()?,
            State::FirstKeyOrEnd | State::Key => {
                if byte == b'"'
                    && let Some(key) = plain_string(&bytes[1..])
                {
                    self.state = State::Colon { is_model: key == KeyMatcher::KEY };
                    return Ok(key.len() + 2);
                }
                self.state = match byte {
                    b'"' => State::InKey(KeyMatcher::default()),
                    0 => return Err(BodyError::WideEncoding),
                    _ => return Err(BodyError::Malformed("expected a quoted key")),
                }
            }
            State::Colon { is_model } => {
                self.state = match byte {
                    b':' if *is_model => State::ModelValue,
                    b':' => State::Value,
                    _ => return Err(BodyError::Malformed("expected ':' after a key")),
                }
            }
            State::ModelValue => {
                if byte == b'"'
                    && let Some(name) = plain_string(&bytes[1..])
                {
                    self.set_model(ModelName::decoded(name)?)?;
                    self.state = State::AfterValue;
                    return Ok(name.len() + 2);
                }
                self.state = match byte {
                    b'"' => State::InModelValue(ValueDecoder::default()),
                    _ => return Err(BodyError::ModelNotAString),
                }
            }
            State::Value => {
                self.state = match byte {
                    b'"' => State::SkipValue(StringState::Inside),
                    b'{' | b'[' => State::Nested(NestedValue::opened()),
                    _ if is_scalar(byte) => State::Scalar,
                    _ => return Err(BodyError::Malformed("expected a value")),
                }
            }
            State::Scalar if is_scalar(byte) => {}
            State::Scalar | State::AfterValue => match byte {
                b',' => self.state = State::Key,
                b'}' => self.close_root()?,
                _ => return Err(BodyError::Malformed("expected ',' or '}' after a value")),
            },
        }
        Ok(1)
    }

    fn set_model(&mut self, name: ModelName) -> Result<(), BodyError> {
        match &self.model {
            Some(first) if *first != name => Err(BodyError::ModelConflict),
            _ => {
                self.model = Some(name);
                Ok(())
            }
        }
    }

    fn close_root(&mut self) -> Result<(), BodyError> {
        self.state = State::Finished;
        if self.model.is_some() { Ok(()) } else { Err(BodyError::ModelMissing) }
    }
}

/// Reads a byte before the root object: whitespace and one UTF-8 byte order mark, of which `seen` bytes were read. Returns
/// the new `seen`, or `None` after the opening bracket.
///
/// Rejects UTF-16 and UTF-32, which engines detect by a byte order mark or a zero in the first bytes.
pub(crate) fn before_root(byte: u8, seen: u8) -> Result<Option<u8>, BodyError> {
    const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];
    /// No byte order mark may follow.
    const PAST_MARK: u8 = 3;
    if let Some(expected) = (seen > 0).then(|| BOM.get(usize::from(seen))).flatten() {
        return if byte == *expected { Ok(Some(seen + 1)) } else { Err(BodyError::NotAnObject) };
    }
    match byte {
        0xef if seen == 0 => Ok(Some(1)),
        0xff | 0xfe | 0x00 => Err(BodyError::WideEncoding),
        b'{' => Ok(None),
        _ if is_whitespace(byte) => Ok(Some(PAST_MARK)),
        _ => Err(BodyError::NotAnObject),
    }
}

pub(crate) fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether the byte may be part of a number, or of `true`, `false`, `null`, `NaN`, `-Infinity`.
pub(crate) fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}
