use http::StatusCode;

use super::{MAX_DEPTH, MAX_MODEL_NAME_BYTES};

/// Why a request body does not say which model is meant. All of these are
/// errors of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is empty; send a JSON object with a 'model' field")]
    Empty,
    #[error("the request body is UTF-16 or UTF-32; send UTF-8")]
    WideEncoding,
    #[error("the request body must be a JSON object")]
    NotAnObject,
    #[error("the request body is not valid JSON: {0}")]
    Malformed(&'static str),
    #[error("the request body ends before its JSON object does")]
    Truncated,
    #[error("the request body is no form that can be read: {0}")]
    Form(&'static str),
    #[error("the request body is not compressed as its Content-Encoding says")]
    Encoding,
    #[error("the request body becomes too large when it is decompressed")]
    DecodedTooLarge,
    #[error("the Content-Encoding is not supported; send gzip, deflate, br, zstd or none")]
    UnsupportedEncoding,
    #[error(
        "the model of a compressed body cannot be replaced, as its rewrite asks; send the body without Content-Encoding"
    )]
    EncodedRewrite,
    #[error("of multipart request bodies only forms are supported; send multipart/form-data or JSON")]
    UnsupportedMultipart,
    #[error("the request body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("you must provide a 'model' field")]
    ModelMissing,
    #[error("'model' must be a string")]
    ModelNotAString,
    #[error("'model' must not be empty")]
    ModelEmpty,
    #[error("'model' is longer than {MAX_MODEL_NAME_BYTES} bytes")]
    ModelTooLong,
    #[error("'model' contains characters that no model name has")]
    ModelCharacters,
    #[error("'model' is given twice with different values")]
    ModelConflict,
    #[error("'model' is given too often to be replaced")]
    ModelTooOften,
}

impl BodyError {
    /// 415 for a kind of body that cannot be read, else 400.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::UnsupportedEncoding | Self::EncodedRewrite | Self::UnsupportedMultipart => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Stable, for programs: `error.code` of the response and a label of the metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::ModelConflict => "model_conflict",
            Self::UnsupportedEncoding | Self::EncodedRewrite => "unsupported_content_encoding",
            Self::UnsupportedMultipart => "unsupported_content_type",
            _ if self.param().is_some() => "invalid_model",
            _ => "invalid_body",
        }
    }

    /// The member of the body that is at fault, as OpenAI's `error.param`.
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
            | Self::Form(_)
            | Self::Encoding
            | Self::DecodedTooLarge
            | Self::UnsupportedEncoding
            | Self::EncodedRewrite
            | Self::UnsupportedMultipart
            | Self::TooDeep => None,
        }
    }
}
