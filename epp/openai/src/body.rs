use http::{HeaderMap, header};

use super::encoding::{EncodedScanner, Encoding};
use super::form::{self, FormScanner};
use super::parameters;
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
    /// JSON is `application/json`, `application/*+json`, or no `Content-Type`, as in FastAPI.
    ///
    /// # Errors
    ///
    /// The `Content-Type` or the `Content-Encoding` is not supported, or the form has no valid boundary.
    pub fn new(headers: &HeaderMap) -> Result<Self, BodyError> {
        let scanner = plain_scanner(headers)?;
        let mut encodings = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        let Some(name) = encodings.next() else { return Ok(Self::Plain(scanner)) };
        let encoding = Encoding::parse(name).ok_or(BodyError::UnsupportedEncoding)?;
        // A server that ignores the coding could find a form among the encoded bytes.
        let is_form = matches!(scanner, PlainScanner::Form(_));
        if is_form || encodings.next().is_some() {
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
    /// The body is incomplete, or there are bytes behind the compressed stream.
    pub fn finish(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Plain(scanner) => scanner.finish(),
            Self::Encoded(scanner) => scanner.0.finish(),
        }
    }

    /// Memory that the scanner needs for decoding, mostly the window of the content coding. 0 for an uncompressed body.
    pub fn decoder_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Encoded(scanner) => scanner.0.memory_bytes(),
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

fn plain_scanner(headers: &HeaderMap) -> Result<PlainScanner, BodyError> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (first, second) = (types.next(), types.next());
    // Servers differ in which of several they read.
    if second.is_some() {
        return Err(BodyError::UnsupportedType);
    }
    let media_type = first.map_or(&b""[..], |value| value.as_bytes());
    let end = media_type.iter().position(|byte| *byte == b';').unwrap_or(media_type.len());
    let essence = media_type[..end].trim_ascii().to_ascii_lowercase();
    match essence.as_slice() {
        b"multipart/form-data" => {
            let (_, parameters) = parameters::parse(media_type)
                .ok_or(BodyError::InvalidForm("the parameters of the Content-Type are ambiguous"))?;
            Ok(PlainScanner::Form(Box::new(FormScanner::new(&form::boundary(&parameters)?))))
        }
        b"" | b"application/json" => Ok(PlainScanner::Json(ModelScanner::default())),
        essence if essence.starts_with(b"application/") && essence.ends_with(b"+json") => {
            Ok(PlainScanner::Json(ModelScanner::default()))
        }
        essence if essence.starts_with(b"multipart/") => Err(BodyError::UnsupportedMultipart),
        _ => Err(BodyError::UnsupportedType),
    }
}
