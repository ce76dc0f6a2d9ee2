use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::forward::Broken;
use forebay_openai::{BodyError, ModelName};

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Client,
    Upstream,
    Picker,
    Internal,
}

/// What may be done about a failure inside the gateway, before the client hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing reached an engine: the next endpoint of the list may be tried.
    NextEndpoint,
    /// A reused connection ended before any byte of a response: once more on a fresh one.
    FreshConnection,
    /// The engine may have begun, or trying again cannot help.
    No,
}

/// Why a request was not answered by an engine.
///
/// [`crate::answer::error`] is the one place that turns it into a response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the header {0} is no model's name")]
    BadRewrite(&'static str),
    #[error("a request must not have both Content-Length and Transfer-Encoding")]
    AmbiguousLength,
    #[error("WebSockets and tunnels are not supported")]
    UpgradeUnsupported,
    #[error("the request names no host")]
    NoHost,
    #[error(
        "the request body is larger than {limit_bytes} bytes, the most that is held while a pod is chosen"
    )]
    BodyTooLarge { limit_bytes: u64 },
    #[error("no byte of the request body came for {}", humane(*waited))]
    BodyTimeout { waited: Duration },
    #[error("the framing of the request body is broken")]
    BodyBroken,
    #[error("the client went away")]
    ClientGone,
    #[error("the model `{0}` does not exist")]
    UnknownModel(ModelName),
    #[error("the model `{0}` does not exist")]
    UnknownModelInPath(String),
    #[error("no route matches this request")]
    NoRoute,
    #[error("the connection was opened for another host")]
    Misdirected,
    #[error("the route's backend cannot be used: {0}")]
    Backend(&'static str),
    #[error("too many request bodies are held at the moment")]
    HoldExhausted,
    #[error("no pod that serves this request is ready")]
    NoReadyEndpoint,
    #[error(transparent)]
    Unschedulable(forebay_epp::Error),
    #[error("the endpoint picker is unavailable")]
    PickerUnavailable(#[source] PickerFault),
    #[error("the endpoint picker refused the request with {}", .0.status)]
    PickerRejected(Box<Rejection>),
    #[error("no connection to the model server")]
    Connect(#[source] std::io::Error),
    #[error("no connection to the model server within {}", humane(*waited))]
    ConnectTimeout { waited: Duration },
    #[error("the model server closed the connection before it answered")]
    UpstreamBroken { source: Broken, reused: bool },
    #[error("the model server answered {0} to every attempt")]
    UpstreamStatus(StatusCode),
    #[error("the model server did not begin to answer within {}", humane(*waited))]
    FirstByteTimeout { waited: Duration },
    #[error("the request took longer than the {} that its route allows", humane(*limit))]
    RequestTimeout { limit: Duration },
    #[error("the model server took longer than the {} that the route allows", humane(*limit))]
    BackendRequestTimeout { limit: Duration },
    #[error("the request could not be passed on")]
    Internal(#[source] http::Error),
}

/// A picker's own answer to a request, in place of a decision.
#[derive(Debug)]
pub struct Rejection {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why a picker gave no usable decision.
#[derive(Debug, thiserror::Error)]
pub enum PickerFault {
    #[error("no address of the picker's Service is ready")]
    NoAddress,
    #[error("its stream failed: {0}")]
    Stream(Box<tonic::Status>),
    #[error("it ended its stream without a decision")]
    Ended,
    #[error("no decision within {}", humane(*.0))]
    Timeout(Duration),
    #[error("its rewritten body is larger than the hold budget")]
    BodyTooLarge,
    #[error("it did not give back the response")]
    ResponseLost,
    #[error("{0}")]
    Protocol(&'static str),
}

impl Error {
    pub fn source_of_failure(&self) -> Source {
        match self {
            Self::Body(_)
            | Self::BadRewrite(_)
            | Self::AmbiguousLength
            | Self::UpgradeUnsupported
            | Self::NoHost
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout { .. }
            | Self::BodyBroken
            | Self::ClientGone
            | Self::UnknownModel(_)
            | Self::UnknownModelInPath(_)
            | Self::Misdirected
            | Self::NoRoute => Source::Client,
            Self::Backend(_) | Self::HoldExhausted | Self::Internal(_) => Source::Internal,
            Self::NoReadyEndpoint
            | Self::Unschedulable(_)
            | Self::PickerUnavailable(_)
            | Self::PickerRejected(_) => Source::Picker,
            Self::Connect(_)
            | Self::ConnectTimeout { .. }
            | Self::UpstreamBroken { .. }
            | Self::UpstreamStatus(_)
            | Self::FirstByteTimeout { .. }
            | Self::RequestTimeout { .. }
            | Self::BackendRequestTimeout { .. } => Source::Upstream,
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect(_) | Self::ConnectTimeout { .. } => Retry::NextEndpoint,
            Self::UpstreamBroken { reused: true, .. } => Retry::FreshConnection,
            _ => Retry::No,
        }
    }

    /// The model server is at fault, or the way to it: another attempt may go better.
    pub(crate) fn is_of_upstream(&self) -> bool {
        self.source_of_failure() == Source::Upstream
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Body(error) => error.http_status(),
            Self::BadRewrite(_) | Self::AmbiguousLength | Self::NoHost | Self::BodyBroken => {
                StatusCode::BAD_REQUEST
            }
            Self::UpgradeUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => client_closed_request(),
            Self::UnknownModel(_) | Self::UnknownModelInPath(_) | Self::NoRoute => StatusCode::NOT_FOUND,
            // Gateway API: requests to a backendRef that cannot be resolved get a 500.
            Self::Backend(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::HoldExhausted | Self::NoReadyEndpoint | Self::PickerUnavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::PickerRejected(rejection) => rejection.status,
            Self::Unschedulable(error) => error.http_status(),
            Self::Connect(_)
            | Self::ConnectTimeout { .. }
            | Self::UpstreamBroken { .. }
            | Self::UpstreamStatus(_) => StatusCode::BAD_GATEWAY,
            Self::FirstByteTimeout { .. }
            | Self::RequestTimeout { .. }
            | Self::BackendRequestTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Stable, for programs: `error.code` of the answer and a label of the metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Body(error) => error.code(),
            Self::BadRewrite(_) => "invalid_model_rewrite",
            Self::AmbiguousLength => "ambiguous_length",
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::NoHost => "no_host",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::ClientGone => "client_closed_request",
            Self::UnknownModel(_) | Self::UnknownModelInPath(_) => "model_not_found",
            Self::NoRoute => "route_not_found",
            Self::Misdirected => "misdirected",
            Self::Backend(_) => "backend_unresolved",
            Self::HoldExhausted => "hold_budget_exhausted",
            Self::NoReadyEndpoint => "no_ready_endpoint",
            Self::Unschedulable(error) => error.code(),
            Self::PickerUnavailable(_) => "picker_unavailable",
            Self::PickerRejected(_) => "picker_rejected",
            Self::Connect(_) | Self::ConnectTimeout { .. } => "upstream_connect",
            Self::UpstreamBroken { .. } => "upstream_reset",
            Self::UpstreamStatus(_) => "upstream_status",
            Self::FirstByteTimeout { .. } => "upstream_timeout",
            Self::RequestTimeout { .. } => "request_timeout",
            Self::BackendRequestTimeout { .. } => "backend_request_timeout",
            Self::Internal(_) => "internal",
        }
    }

    /// The member of the request's body that is at fault, as OpenAI's `error.param`.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Body(error) => error.param(),
            Self::UnknownModel(_) | Self::UnknownModelInPath(_) => Some("model"),
            _ => None,
        }
    }

    /// When it is worth trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// 499, which nobody is sent: it stands in logs and metrics when the client left first.
pub(crate) fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

fn humane(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
