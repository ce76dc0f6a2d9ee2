//! Another model's name in place of a body's own.

use bytes::Bytes;
use http::HeaderMap;

use super::body::PlainScanner;
use super::scanner::Part;
use super::{BodyError, BodyScanner, ModelName};

/// Most `model` members of one body that are replaced; each makes the body come in more pieces.
const MAX_MEMBERS: u32 = 16;

/// Replaces the value of every `model` of a body as the body's bytes pass. What stays is not copied, and nothing is
/// kept back: that a value is another model's than the first shows at its end, and is an error then.
#[derive(Debug)]
pub struct Splicer {
    scanner: PlainScanner,
    /// The name as this kind of body spells it.
    name: Bytes,
    /// How long the body will be has been said: each value's length must stay what it was.
    keeps_length: bool,
    /// In a value, or just behind one: how long it was so far.
    value_bytes: Option<usize>,
    members: u32,
}

impl Splicer {
    /// For a body with these headers; an error if it is of no kind in which a name can be replaced.
    pub fn new(headers: &HeaderMap, name: &ModelName) -> Result<Self, BodyError> {
        let scanner = BodyScanner::plain(headers)?;
        let name = match &scanner {
            PlainScanner::Json(_) => json_string(name.as_str()),
            PlainScanner::Form(_) => Bytes::copy_from_slice(name.as_str().as_bytes()),
        };
        Ok(Self { scanner, name, keeps_length: false, value_bytes: None, members: 0 })
    }

    /// From now on no value may change its length. JSON is filled up with blanks.
    pub fn keep_length(&mut self) {
        self.keeps_length = true;
    }

    /// Takes the next bytes, and gives out what is to be sent in their place. After an error it must not be fed
    /// again.
    pub fn feed(&mut self, bytes: &Bytes, mut out: impl FnMut(Bytes)) -> Result<(), BodyError> {
        let mut at = 0;
        while at < bytes.len() {
            let (used, part) = self.scanner.part(&bytes[at..])?;
            match (part, &mut self.value_bytes) {
                (Part::Model, Some(so_far)) => *so_far += used,
                (Part::Model, None) => {
                    self.members += 1;
                    if self.members > MAX_MEMBERS {
                        return Err(BodyError::ModelTooOften);
                    }
                    self.value_bytes = Some(used);
                    out(self.name.clone());
                }
                (Part::Other, value) => {
                    if let Some(old) = value.take().filter(|old| self.keeps_length && *old != self.name.len())
                    {
                        out(self.blanks(old)?);
                    }
                    out(bytes.slice(at..at + used));
                }
            }
            at += used;
        }
        Ok(())
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<(), BodyError> {
        self.scanner.finish()
    }

    /// What fills up the name to a value of `old` bytes.
    fn blanks(&self, old: usize) -> Result<Bytes, BodyError> {
        let missing = old.checked_sub(self.name.len()).ok_or(BodyError::ModelTooOften)?;
        match self.scanner {
            PlainScanner::Json(_) => Ok(vec![b' '; missing].into()),
            PlainScanner::Form(_) => Err(BodyError::ModelTooOften),
        }
    }
}

/// With its quotes, and as it must be escaped.
pub fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}
