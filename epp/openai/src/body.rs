use http::{HeaderMap, header};

use super::encoding::{EncodedScanner, Encoding};
use super::form::{FormScanner, MAX_BOUNDARY_BYTES, Parameters};
use super::plain::PlainScanner;
use super::scanner::{ModelScanner, Progress};
use super::{BodyError, ModelName};

/// Finds the model in a request body of any supported kind: JSON or `multipart/form-data`, optionally compressed.
///
/// # Examples
///
/// ```
/// use forebay_openai::{BodyScanner, Progress};
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=XX"));
/// let mut scanner = BodyScanner::new(&headers)?;
/// let head = b"--XX\r\nContent-Disposition: form-data; name=model\r\n\r\nwhis";
/// assert_eq!(scanner.feed(head)?, Progress::Undecided);
/// assert_eq!(scanner.feed(b"per-1\r\n--XX--")?, Progress::Finished);
/// scanner.finish()?;
/// assert_eq!(scanner.model().map(|model| model.as_str()), Some("whisper-1"));
/// # Ok::<(), forebay_openai::BodyError>(())
/// ```
#[derive(Debug)]
pub enum BodyScanner {
    /// An uncompressed body.
    Plain(PlainScanner),
    /// A body with a `Content-Encoding`.
    Encoded(Box<EncodedBody>),
}

/// The scanner of a compressed body.
#[derive(Debug)]
pub struct EncodedBody(EncodedScanner);

impl BodyScanner {
    /// A scanner for a body with these headers.
    ///
    /// Every body that is not multipart is read as JSON, whatever its `Content-Type` is, as the engines do.
    ///
    /// # Errors
    ///
    /// The multipart type or the `Content-Encoding` is not supported, or the form has no valid boundary.
    pub fn new(headers: &HeaderMap) -> Result<Self, BodyError> {
        let scanner = match headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()) {
            Some(media_type) if is_multipart(media_type) => {
                PlainScanner::Form(Box::new(FormScanner::new(&boundary(media_type)?)))
            }
            _ => PlainScanner::Json(ModelScanner::default()),
        };
        let mut encodings = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        let Some(name) = encodings.next() else { return Ok(Self::Plain(scanner)) };
        let encoding = Encoding::parse(name).ok_or(BodyError::UnsupportedEncoding)?;
        if encodings.next().is_some() {
            return Err(BodyError::UnsupportedEncoding);
        }
        Ok(Self::Encoded(Box::new(EncodedBody(EncodedScanner::new(encoding, scanner)?))))
    }

    /// A scanner for an uncompressed body. A compressed one is an error.
    pub(super) fn plain(headers: &HeaderMap) -> Result<PlainScanner, BodyError> {
        match Self::new(headers)? {
            Self::Plain(scanner) => Ok(scanner),
            Self::Encoded(_) => Err(BodyError::EncodedRewrite),
        }
    }

    /// Reads the next bytes of the body, split anywhere.
    ///
    /// # Errors
    ///
    /// The body is invalid, or it has no usable model. Do not feed the scanner after an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match self {
            Self::Plain(scanner) => scanner.feed(bytes),
            Self::Encoded(scanner) => scanner.0.feed(bytes),
        }
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    ///
    /// The body is incomplete.
    pub fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Plain(scanner) => scanner.finish(),
            Self::Encoded(scanner) => scanner.0.finish(),
        }
    }

    /// The model, once it is known.
    pub fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Plain(scanner) => scanner.model(),
            Self::Encoded(scanner) => scanner.0.model(),
        }
    }
}

fn is_multipart(media_type: &[u8]) -> bool {
    const FORM: &[u8] = b"multipart/";
    media_type.get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM))
}

fn boundary(media_type: &[u8]) -> Result<Vec<u8>, BodyError> {
    let end = media_type.iter().position(|byte| *byte == b';').unwrap_or(media_type.len());
    if !media_type[..end].trim_ascii().eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(BodyError::UnsupportedMultipart);
    }
    let boundary = Parameters(media_type).find(|(name, _)| name.eq_ignore_ascii_case(b"boundary"));
    match boundary {
        Some((_, boundary)) if (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) => Ok(boundary),
        _ => Err(BodyError::InvalidForm("the Content-Type has no boundary of 1 to 70 characters")),
    }
}
