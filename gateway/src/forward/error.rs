use std::error::Error as _;
use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::hold::{ReadError, UploadOutcome};

/// Why one exchange with an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No response head arrived before the deadline.
    #[error("no response head arrived in time")]
    Timeout,
    /// The endpoint closed the connection before the end of its response.
    #[error("the endpoint closed the connection")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The response violates RFC 9112. The text says how.
    #[error("the response is not valid HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// The HTTP/2 connection or stream failed.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    /// The client's request body failed, not the endpoint.
    #[error(transparent)]
    Upload(#[from] ReadError),
}

impl ExchangeError {
    /// Whether the peer certainly did not process the request of an HTTP/2 stream: it refused the stream, its GOAWAY
    /// excludes the stream (RFC 9113 §8.7), or the request was not sent.
    pub(super) fn is_unprocessed(&self) -> bool {
        let Self::Http2(error) = self else { return false };
        // hyper cancels requests that its connection has not started.
        if error.is_canceled() || error.is_closed() {
            return true;
        }
        let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        cause.is_some_and(|cause| {
            cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
    }

    /// The error of an HTTP/2 exchange. hyper does not report errors of the request body, so `upload` is asked first.
    pub(super) fn http2(error: hyper::Error, upload: &UploadOutcome) -> Self {
        upload.failure().map_or(Self::Http2(error), Self::Upload)
    }
}

/// Why a request could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The send plan has no endpoint.
    #[error("no ready endpoint serves this request")]
    NoEndpoint,
    /// The connection failed.
    #[error("cannot connect to the model server")]
    Connect(#[source] io::Error),
    /// The connection was not established in time.
    #[error("cannot connect to the model server within {} s", waited.as_secs_f64())]
    ConnectTimeout {
        /// The connect timeout.
        waited: Duration,
    },
    /// The limit of connections to endpoints is reached.
    #[error("the gateway has too many connections to model servers")]
    TooManyConnections,
    /// The connection broke before the response head arrived.
    #[error("the model server closed the connection before it responded")]
    Exchange {
        /// The cause.
        source: ExchangeError,
        /// The endpoint cannot have processed the request, or may process it twice.
        is_repeatable: bool,
    },
    /// All attempts of the retry policy ended with this status.
    #[error("the model server responded with {0} to every attempt")]
    Status(StatusCode),
    /// No response head arrived within the first byte timeout.
    #[error("the model server did not respond within {} s", waited.as_secs_f64())]
    FirstByteTimeout {
        /// The first byte timeout.
        waited: Duration,
    },
    /// No response head arrived within `timeouts.backendRequest` of the route.
    #[error("the model server took longer than the {} s that the route allows", limit.as_secs_f64())]
    BackendRequestTimeout {
        /// The timeout of the route.
        limit: Duration,
    },
    /// The client's request body failed while it was sent.
    #[error(transparent)]
    Upload(#[from] ReadError),
}

/// What the gateway may try after a failure, before the client gets a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing was sent: try the next endpoint.
    NextEndpoint,
    /// A reused connection was closed before any byte of a response, and the request may be sent again: try the same
    /// endpoint on a new connection.
    NewConnection,
    /// Do not retry: the engine may have started, or another attempt cannot succeed.
    No,
}

impl Error {
    /// The error of a failed exchange. `is_repeatable`: see [`Error::Exchange`].
    pub(super) fn exchange(source: ExchangeError, is_repeatable: bool) -> Self {
        match source {
            ExchangeError::Upload(error) => Self::Upload(error),
            source => Self::Exchange { source, is_repeatable },
        }
    }

    /// What may be tried next, independent of the route's retry policy.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect(_) | Self::ConnectTimeout { .. } => Retry::NextEndpoint,
            Self::Exchange { is_repeatable: true, .. } => Retry::NewConnection,
            _ => Retry::No,
        }
    }

    /// Whether the endpoint or the way to it failed. Only then a retry policy applies.
    pub(crate) fn is_upstream(&self) -> bool {
        !matches!(self, Self::NoEndpoint | Self::TooManyConnections | Self::Upload(_))
    }
}
