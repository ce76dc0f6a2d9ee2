use crate::nested::NestedValue;
use crate::scanner::Region;
use crate::string::{Name, NameStep, StringState, skip_string};

/// Finds the `model` member of a JSON root object. Input may be split at any byte. Input that is not valid JSON is
/// passed through unchanged to its end.
#[derive(Debug)]
pub(super) struct ModelFinder {
    state: State,
    /// Also search the members `response` and `message` of the root. Events of the Responses API and the Messages API have
    /// the model there.
    looks_into_envelope: bool,
    is_in_envelope: bool,
}

#[derive(Debug)]
enum State {
    Start,
    FirstKeyOrEnd,
    Key,
    InKey(Name<KEY_BYTES>),
    /// In any other key.
    SkipKey(StringState),
    Colon(Member),
    Value(Member),
    InModel(StringState),
    SkipValue(StringState),
    /// In a number, `true`, `false` or `null`.
    Scalar,
    AfterValue,
    Nested(NestedValue),
    /// After the root object, or after a syntax error.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Model,
    Envelope,
    Other,
}

impl Member {
    fn of(name: &[u8]) -> Self {
        match name {
            b"model" => Self::Model,
            b"response" | b"message" => Self::Envelope,
            _ => Self::Other,
        }
    }
}

/// Length of the longest key, `response`.
const KEY_BYTES: usize = 8;

impl ModelFinder {
    /// For a JSON response.
    pub(super) fn in_body() -> Self {
        Self { state: State::Start, looks_into_envelope: false, is_in_envelope: false }
    }

    /// For the data of one event.
    pub(super) fn in_event() -> Self {
        Self { looks_into_envelope: true, ..Self::in_body() }
    }

    /// The length (at least one byte) and the kind of the next run of bytes of one kind. A value includes its quotes.
    pub(super) fn next_region(&mut self, bytes: &[u8]) -> (usize, Region) {
        let mut used = 0;
        let mut region = None;
        while let Some(byte) = bytes.get(used) {
            let next = match self.state {
                State::InModel(_) => Region::Model,
                State::Value(Member::Model) if *byte == b'"' => Region::Model,
                _ => Region::Other,
            };
            if *region.get_or_insert(next) != next {
                break;
            }
            used += self.step(&bytes[used..]);
        }
        (used, region.unwrap_or(Region::Other))
    }

    /// Consumes at least one byte. `bytes` must not be empty. Returns the number of bytes consumed.
    // Longer than the limit: one arm per state of the parser.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        match &mut self.state {
            State::Done => return bytes.len(),
            State::Nested(nested) => match nested.skip(bytes) {
                Ok(None) => return bytes.len(),
                Ok(Some(used)) => {
                    self.state = State::AfterValue;
                    return used;
                }
                Err(_) => self.state = State::Done,
            },
            State::SkipKey(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == StringState::Ended {
                    self.state = State::Colon(Member::Other);
                }
                return used;
            }
            State::SkipValue(at) | State::InModel(at) => {
                let (used, end) = skip_string(bytes, *at);
                *at = end;
                if end == StringState::Ended {
                    self.state = State::AfterValue;
                }
                return used;
            }
            State::InKey(key) => match key.push(byte) {
                Err(_) => self.state = State::Done,
                Ok(NameStep::More) => {}
                Ok(NameStep::Other) => self.state = State::SkipKey(StringState::Inside),
                Ok(NameStep::End(name)) => self.state = State::Colon(Member::of(name)),
            },
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {
                if matches!(self.state, State::Scalar) {
                    self.state = State::AfterValue;
                }
            }
            State::Start => self.state = if byte == b'{' { State::FirstKeyOrEnd } else { State::Done },
            State::FirstKeyOrEnd if byte == b'}' => self.close(),
            State::FirstKeyOrEnd | State::Key => {
                self.state = if byte == b'"' { State::InKey(Name::default()) } else { State::Done };
            }
            State::Colon(member) => {
                self.state = if byte == b':' { State::Value(*member) } else { State::Done };
            }
            State::Value(member) => {
                let may_enter =
                    *member == Member::Envelope && self.looks_into_envelope && !self.is_in_envelope;
                self.state = match byte {
                    b'"' if *member == Member::Model => State::InModel(StringState::Inside),
                    b'"' => State::SkipValue(StringState::Inside),
                    b'{' if may_enter => {
                        self.is_in_envelope = true;
                        State::FirstKeyOrEnd
                    }
                    b'{' | b'[' => State::Nested(NestedValue::opened()),
                    b'}' | b']' | b',' | b':' => State::Done,
                    _ => State::Scalar,
                }
            }
            State::Scalar | State::AfterValue => match byte {
                b',' => self.state = State::Key,
                b'}' => self.close(),
                _ if matches!(self.state, State::Scalar) => {}
                _ => self.state = State::Done,
            },
        }
        1
    }

    fn close(&mut self) {
        self.state = if self.is_in_envelope { State::AfterValue } else { State::Done };
        self.is_in_envelope = false;
    }
}
