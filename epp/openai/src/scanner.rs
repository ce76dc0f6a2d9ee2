use super::nested::Nested;
use super::string::{KeyMatcher, KeyStep, Skip, ValueDecoder, plain_string, skip_string};
use super::{BodyError, ModelName};

/// Deepest nesting taken. Only a counter grows with it; the bound keeps a body
/// of opening brackets from being sent on to parsers that recurse.
pub const MAX_DEPTH: u32 = 10_000;

/// How far the scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No `model` at the root yet.
    Undecided,
    /// The model is known, the root object is still open.
    Model,
    /// The root object has closed; what follows is not looked at.
    Finished,
}

/// What some bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The value of a `model`.
    Model,
    Other,
}

/// Finds the `model` member of a JSON root object in a stream of bytes.
///
/// It keeps no bytes but those of the model name, does not recurse, and may be
/// fed the body in pieces of any size. It is no validator: what is wrong inside
/// other members is left to the engine. What it must get right is every
/// document that an engine's parser takes, with escapes in keys and values,
/// `NaN`, lone surrogates and invalid UTF-8 elsewhere included.
#[derive(Debug)]
pub struct ModelScanner {
    state: State,
    model: Option<ModelName>,
}

#[derive(Debug)]
enum State {
    Start {
        seen: u8,
    },
    FirstKeyOrEnd,
    Key,
    InKey(KeyMatcher),
    /// In a key that is not `model`.
    SkipKey(Skip),
    Colon {
        is_model: bool,
    },
    Value,
    ModelValue,
    InModelValue(ValueDecoder),
    SkipValue(Skip),
    /// In a number, `true`, `NaN`, ... directly below the root.
    Scalar,
    AfterValue,
    /// In an object or array below the root.
    Nested(Nested),
    Finished,
}

impl Default for ModelScanner {
    fn default() -> Self {
        Self { state: State::Start { seen: 0 }, model: None }
    }
}

impl ModelScanner {
    /// Takes the next bytes of the body. After an error the scanner must not be fed again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest)?;
            rest = &rest[used..];
        }
        Ok(self.progress())
    }

    /// The next bytes that are all of a `model` member's value, its quotes included, or all of none: how many
    /// these are, at least one, and which of the two.
    pub(super) fn part(&mut self, bytes: &[u8]) -> Result<(usize, Part), BodyError> {
        let mut used = 0;
        let mut part = None;
        while let Some(byte) = bytes.get(used) {
            let next = match self.state {
                State::InModelValue(_) => Part::Model,
                State::ModelValue if *byte == b'"' => Part::Model,
                _ => Part::Other,
            };
            if *part.get_or_insert(next) != next {
                break;
            }
            used += self.step(&bytes[used..])?;
        }
        Ok((used, part.unwrap_or(Part::Other)))
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<(), BodyError> {
        match self.state {
            State::Finished => Ok(()),
            State::Start { .. } => Err(BodyError::Empty),
            _ => Err(BodyError::Truncated),
        }
    }

    pub fn progress(&self) -> Progress {
        match (&self.state, &self.model) {
            (State::Finished, _) => Progress::Finished,
            (_, Some(_)) => Progress::Model,
            (_, None) => Progress::Undecided,
        }
    }

    pub fn model(&self) -> Option<&ModelName> {
        self.model.as_ref()
    }

    /// Uses at least one byte of `bytes`, which has at least one; gives how many.
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
                if end == Skip::Ended {
                    self.state = State::Colon { is_model: false };
                }
                return Ok(used);
            }
            State::SkipValue(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == Skip::Ended {
                    self.state = State::AfterValue;
                }
                return Ok(used);
            }
            State::InKey(key) => match key.push(byte)? {
                KeyStep::More => {}
                KeyStep::Other => self.state = State::SkipKey(Skip::Inside),
                KeyStep::End { is_model } => self.state = State::Colon { is_model },
            },
            State::InModelValue(value) => {
                if let Some(name) = value.push(byte)? {
                    self.found(name)?;
                    self.state = State::AfterValue;
                }
            }
            State::Finished => return Ok(bytes.len()),
            State::Start { seen } => {
                let seen = *seen;
                self.start(byte, seen)?;
            }
            _ if is_blank(byte) => {
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
                    self.found(ModelName::decoded(name)?)?;
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
                    b'"' => State::SkipValue(Skip::Inside),
                    b'{' | b'[' => State::Nested(Nested::opened()),
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

    /// Before the root: blanks, one UTF-8 byte order mark, and what betrays UTF-16 and UTF-32
    /// (a byte order mark, or a zero among the first two bytes), which engines detect and decode.
    fn start(&mut self, byte: u8, seen: u8) -> Result<(), BodyError> {
        const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];
        /// Past the place where a byte order mark can be.
        const PAST_MARK: u8 = 3;
        if let Some(expected) = (seen > 0).then(|| BOM.get(usize::from(seen))).flatten() {
            return if byte == *expected {
                self.state = State::Start { seen: seen + 1 };
                Ok(())
            } else {
                Err(BodyError::NotAnObject)
            };
        }
        match byte {
            0xef if seen == 0 => self.state = State::Start { seen: 1 },
            0xff | 0xfe | 0x00 => return Err(BodyError::WideEncoding),
            b'{' => self.state = State::FirstKeyOrEnd,
            _ if is_blank(byte) => self.state = State::Start { seen: PAST_MARK },
            _ => return Err(BodyError::NotAnObject),
        }
        Ok(())
    }

    fn found(&mut self, name: ModelName) -> Result<(), BodyError> {
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

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Bytes of numbers and of `true`, `false`, `null`, `NaN`, `-Infinity`.
fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}
