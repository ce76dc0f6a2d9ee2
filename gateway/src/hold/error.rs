use std::time::Duration;

use forebay_openai::BodyError;

/// Why the client's request body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The body is not a valid OpenAI request.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The framing is invalid.
    #[error("the framing of the request body is broken")]
    Broken,
    /// The client closed the connection or reset the stream.
    #[error("the client went away")]
    ClientGone,
    /// No data arrived for this long.
    #[error("no data of the request body arrived for {} s", waited.as_secs_f64())]
    Stalled {
        /// The client body timeout.
        waited: Duration,
    },
    /// The body is held and arrives at less than 8 KiB/s.
    #[error("the request body did not arrive within {} s", waited.as_secs_f64())]
    TooSlow {
        /// Since the first frame.
        waited: Duration,
    },
}

/// Why a request body cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client's body cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The body exceeds the limit of one request (`--hold-request-bytes`).
    #[error("the request body is larger than the limit of {limit_bytes} bytes for bodies that are held")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// All request bodies together exceed the hold budget (`--hold-total-bytes`).
    #[error("the hold budget for request bodies is exhausted")]
    BudgetExhausted,
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        Self::Read(error.into())
    }
}
