use http::StatusCode;

use super::{MAX_DEPTH, MAX_MODEL_NAME_BYTES};

/// Why the model cannot be read from a request body. All are errors of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No bytes, or only whitespace.
    #[error("the request body is empty; send a JSON object with a 'model' field")]
    Empty,
    /// A byte order mark or zero bytes of UTF-16 or UTF-32.
    #[error("the request body is UTF-16 or UTF-32; send UTF-8")]
    WideEncoding,
    /// The JSON text is not an object.
    #[error("the request body must be a JSON object")]
    NotAnObject,
    /// Invalid JSON outside of nested values.
    #[error("the request body is not valid JSON: {0}")]
    Malformed(&'static str),
    /// The body ended early.
    #[error("the request body ends inside the JSON object")]
    Truncated,
    /// Invalid `multipart/form-data`.
    #[error("the request body is not a valid multipart form: {0}")]
    InvalidForm(&'static str),
    /// A server that ignores the `Content-Encoding` could read the encoded body as JSON.
    #[error("the compressed request body begins like JSON; send it without Content-Encoding, or with gzip")]
    AmbiguousEncoding,
    /// The body cannot be decoded, or has bytes behind the compressed stream.
    #[error("the request body cannot be decoded with its Content-Encoding")]
    InvalidEncoding,
    /// The decoded body exceeds 256 MiB, or 200 times its encoded size.
    #[error("the decompressed request body is too large")]
    DecodedTooLarge,
    /// An unknown content coding, more than one, or one on a form.
    #[error("the Content-Encoding is not supported; use one of gzip, deflate, br, zstd on JSON, or none")]
    UnsupportedEncoding,
    /// The model must be rewritten, but the body is compressed.
    #[error(
        "the model of a compressed request body cannot be rewritten; send the body without Content-Encoding"
    )]
    EncodedRewrite,
    /// A multipart type other than `multipart/form-data`.
    #[error("the multipart type of the request body is not supported; use multipart/form-data or JSON")]
    UnsupportedMultipart,
    /// A `Content-Type` that engines do not read as JSON, or several.
    #[error(
        "the Content-Type of the request body is not supported; use application/json or multipart/form-data"
    )]
    UnsupportedType,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the request body is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// No `model` at the root.
    #[error("you must provide a 'model' field")]
    ModelMissing,
    /// `model` is another JSON type, or a file.
    #[error("'model' must be a string")]
    ModelNotAString,
    /// The empty string.
    #[error("'model' must not be empty")]
    ModelEmpty,
    /// Longer than [`MAX_MODEL_NAME_BYTES`].
    #[error("'model' is longer than {MAX_MODEL_NAME_BYTES} bytes")]
    ModelTooLong,
    /// Control or invisible characters, leading or trailing spaces, or invalid UTF-8.
    #[error("'model' contains invalid characters")]
    ModelCharacters,
    /// Several `model` members that differ.
    #[error("'model' occurs more than once with different values")]
    ModelConflict,
    /// More `model` members than can be rewritten, or one that would change the announced length of the body.
    #[error("'model' occurs too often to be rewritten")]
    ModelTooOften,
}

impl BodyError {
    /// Status of the response: 415 for an unsupported kind of body, otherwise 400.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::UnsupportedEncoding
            | Self::EncodedRewrite
            | Self::UnsupportedMultipart
            | Self::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Stable code: `error.code` of the response, and a metric label.
    pub fn code(self) -> &'static str {
        match self {
            Self::ModelConflict => "model_conflict",
            Self::UnsupportedEncoding | Self::EncodedRewrite => "unsupported_content_encoding",
            Self::UnsupportedMultipart | Self::UnsupportedType => "unsupported_content_type",
            _ if self.param().is_some() => "invalid_model",
            _ => "invalid_body",
        }
    }

    /// The invalid member of the body: `error.param` of the response.
    pub fn param(self) -> Option<&'static str> {
        match self {
            Self::ModelMissing
            | Self::ModelNotAString
            | Self::ModelEmpty
            | Self::ModelTooLong
            | Self::ModelCharacters
            | Self::ModelConflict
            | Self::ModelTooOften => Some("model"),
            Self::Empty
            | Self::WideEncoding
            | Self::NotAnObject
            | Self::Malformed(_)
            | Self::Truncated
            | Self::InvalidForm(_)
            | Self::InvalidEncoding
            | Self::DecodedTooLarge
            | Self::UnsupportedEncoding
            | Self::EncodedRewrite
            | Self::UnsupportedMultipart
            | Self::UnsupportedType
            | Self::AmbiguousEncoding
            | Self::TooDeep => None,
        }
    }
}
