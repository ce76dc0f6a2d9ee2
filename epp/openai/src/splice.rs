//! Rewrites the model of a request body.

use bytes::Bytes;
use http::HeaderMap;

use super::plain::PlainScanner;
use super::scanner::Region;
use super::{BodyError, BodyScanner, ModelName};

/// Maximum `model` members of one body that are replaced. Each one splits the body into more chunks.
const MAX_MEMBERS: u32 = 16;

/// Replaces the value of every `model` of a body while its bytes pass.
///
/// Other bytes are shared, not copied, and nothing is held back. A `model` that differs from the first one is an error at
/// its end.
#[derive(Debug)]
pub struct Splicer {
    scanner: PlainScanner,
    /// The name as encoded in this kind of body.
    name: Bytes,
    /// The length of the body was announced, so every value must keep its length.
    keeps_length: bool,
    /// Length of the value so far. `Some` inside a value and directly after one.
    value_bytes: Option<usize>,
    members: u32,
}

impl Splicer {
    /// Writes `name` into a body with these headers.
    ///
    /// # Errors
    ///
    /// The body is compressed, or not of a supported kind.
    pub fn new(headers: &HeaderMap, name: &ModelName) -> Result<Self, BodyError> {
        let scanner = BodyScanner::plain(headers)?;
        let name = match &scanner {
            PlainScanner::Json(_) => json_string(name.as_str()),
            PlainScanner::Form(_) => Bytes::copy_from_slice(name.as_str().as_bytes()),
        };
        Ok(Self { scanner, name, keeps_length: false, value_bytes: None, members: 0 })
    }

    /// Keeps the length of all following values. Shorter names are padded with spaces in JSON.
    pub fn keep_length(&mut self) {
        self.keeps_length = true;
    }

    /// Reads the next bytes of the body and passes the bytes to send instead to `out`, in order.
    ///
    /// # Errors
    ///
    /// The body is invalid, has conflicting models, or has too many. Do not feed the splicer after an error.
    pub fn feed(&mut self, bytes: &Bytes, mut out: impl FnMut(Bytes)) -> Result<(), BodyError> {
        let mut at = 0;
        while at < bytes.len() {
            let (used, region) = self.scanner.next_region(&bytes[at..])?;
            match (region, &mut self.value_bytes) {
                (Region::Model, Some(so_far)) => *so_far += used,
                (Region::Model, None) => {
                    self.members += 1;
                    if self.members > MAX_MEMBERS {
                        return Err(BodyError::ModelTooOften);
                    }
                    self.value_bytes = Some(used);
                    out(self.name.clone());
                }
                (Region::Other, value) => {
                    if let Some(old) = value.take().filter(|old| self.keeps_length && *old != self.name.len())
                    {
                        out(self.padding(old)?);
                    }
                    out(bytes.slice(at..at + used));
                }
            }
            at += used;
        }
        Ok(())
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    ///
    /// The body is incomplete.
    pub fn finish(&self) -> Result<(), BodyError> {
        self.scanner.finish()
    }

    /// Padding between the name and the end of a value of `old` bytes.
    fn padding(&self, old: usize) -> Result<Bytes, BodyError> {
        let missing = old.checked_sub(self.name.len()).ok_or(BodyError::ModelTooOften)?;
        match self.scanner {
            PlainScanner::Json(_) => Ok(vec![b' '; missing].into()),
            PlainScanner::Form(_) => Err(BodyError::ModelTooOften),
        }
    }
}

/// The text as a JSON string, with quotes.
pub(crate) fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}
