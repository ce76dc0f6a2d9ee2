use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{forward, hold};

/// Why no endpoint was chosen, or why the picker replaced the response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No ready endpoint of the pool may serve the request.
    #[error("no ready endpoint serves this request")]
    NoReadyEndpoint,
    /// The scheduler of this process found no endpoint.
    #[error(transparent)]
    Unschedulable(forebay_epp::Error),
    /// The picker made no usable decision, and the pool fails closed.
    #[error("the endpoint picker is unavailable")]
    Unavailable(#[source] PickerFault),
    /// The picker sent an `ImmediateResponse`.
    #[error("the endpoint picker rejected the request with {}", .0.status)]
    Rejected(Box<Rejection>),
    /// The request body could not be held for the picker.
    #[error(transparent)]
    Hold(#[from] hold::Error),
    /// The upstream connection broke while the picker processed the response head.
    #[error(transparent)]
    Forward(#[from] forward::Error),
}

/// A response that a picker sends instead of a decision.
#[derive(Debug)]
pub struct Rejection {
    /// Status of the response. 500 if the picker sent an invalid one.
    pub status: StatusCode,
    /// Headers that the picker sets.
    pub headers: HeaderMap,
    /// May be empty: the gateway then writes its own error body.
    pub body: Bytes,
}

/// Why a picker made no usable decision.
#[derive(Debug, thiserror::Error)]
pub enum PickerFault {
    /// The picker's Service has no ready address.
    #[error("the Service of the picker has no ready address")]
    NoAddress,
    /// The gRPC stream failed.
    #[error("the stream failed: {0}")]
    Stream(Box<tonic::Status>),
    /// The picker ended the stream.
    #[error("the stream ended without a decision")]
    Ended,
    /// No decision within the picker timeout.
    #[error("no decision within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The body that the picker wants sent exceeds a hold limit.
    #[error("the rewritten body exceeds the hold budget")]
    BodyTooLarge,
    /// The picker failed while it had parts of a response that cannot be recovered.
    #[error("the picker did not return the response")]
    ResponseLost,
    /// The picker violated the protocol. The text says how.
    #[error("{0}")]
    Protocol(&'static str),
}

/// The picker revoked its decision while the response was streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint picker evicted the request with {0}")]
pub(crate) struct Evicted(pub(crate) StatusCode);
