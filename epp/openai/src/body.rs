use http::{HeaderMap, header};

use super::encoding::{EncodedScanner, Encoding};
use super::form::{FormScanner, MAX_BOUNDARY_BYTES, Parameters};
use super::scanner::{ModelScanner, Part, Progress};
use super::{BodyError, ModelName};

/// Finds the model in a body of any kind that is known.
#[derive(Debug)]
pub enum BodyScanner {
    Plain(PlainScanner),
    Encoded(Box<EncodedBody>),
}

/// A body as it was before it was compressed.
#[derive(Debug)]
pub enum PlainScanner {
    Json(ModelScanner),
    Form(Box<FormScanner>),
}

/// A compressed body.
#[derive(Debug)]
pub struct EncodedBody(EncodedScanner);

impl BodyScanner {
    /// For a body with these headers; an error if it is of no kind that can be read.
    ///
    /// JSON is taken whatever the Content-Type says, as the engines do.
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

    /// For the body as it is; an error for a compressed one.
    pub(super) fn plain(headers: &HeaderMap) -> Result<PlainScanner, BodyError> {
        match Self::new(headers)? {
            Self::Plain(scanner) => Ok(scanner),
            Self::Encoded(_) => Err(BodyError::EncodedRewrite),
        }
    }

    /// Takes the next bytes of the body. After an error the scanner must not be fed again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match self {
            Self::Plain(scanner) => scanner.feed(bytes),
            Self::Encoded(scanner) => scanner.0.feed(bytes),
        }
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Plain(scanner) => scanner.finish(),
            Self::Encoded(scanner) => scanner.0.finish(),
        }
    }

    pub fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Plain(scanner) => scanner.model(),
            Self::Encoded(scanner) => scanner.0.model(),
        }
    }
}

impl PlainScanner {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match self {
            Self::Json(scanner) => scanner.feed(bytes),
            Self::Form(scanner) => scanner.feed(bytes),
        }
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Json(scanner) => scanner.finish(),
            Self::Form(scanner) => scanner.finish(),
        }
    }

    pub(super) fn part(&mut self, bytes: &[u8]) -> Result<(usize, Part), BodyError> {
        match self {
            Self::Json(scanner) => scanner.part(bytes),
            Self::Form(scanner) => scanner.part(bytes),
        }
    }

    pub(super) fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::Json(scanner) => scanner.progress(),
            Self::Form(scanner) => scanner.progress(),
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
        _ => Err(BodyError::Form("its Content-Type has no boundary of 1 to 70 characters")),
    }
}
