use http::StatusCode;

use super::read_class;
use crate::forward::ExchangeError;
use crate::observe::client_closed_request;
use crate::pick::Evicted;

/// Why a response ended before it was complete. The client sees its stream reset; logs and metrics get the status and
/// the code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Abort {
    #[error(transparent)]
    Upstream(ExchangeError),
    #[error("the request took longer than its route allows")]
    Timeout,
    #[error("the model server sent nothing for longer than the stream idle timeout")]
    Idle,
    #[error(transparent)]
    Evicted(Evicted),
    #[error("the endpoint picker did not return the whole response")]
    Picker,
    #[error("the client took no data for the client write timeout")]
    ClientStalled,
}

impl Abort {
    /// The endpoint, or the way to it, is the cause.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Upstream(error) => !matches!(error, ExchangeError::Upload(_)),
            Self::Idle => true,
            Self::Timeout | Self::Evicted(_) | Self::Picker | Self::ClientStalled => false,
        }
    }

    /// Status and error code.
    pub(crate) fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Upstream(ExchangeError::Upload(error)) => {
                let class = read_class(error);
                (class.status, class.code)
            }
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "upstream_reset"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "request_timeout"),
            Self::Idle => (StatusCode::GATEWAY_TIMEOUT, "upstream_idle"),
            Self::Evicted(Evicted(status)) => (*status, "evicted"),
            Self::ClientStalled => (client_closed_request(), "client_write_timeout"),
            Self::Picker => (StatusCode::BAD_GATEWAY, "picker_response_lost"),
        }
    }
}
