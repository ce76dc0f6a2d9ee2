//! Why requests fail. This is the only place that maps errors to a source, status, code, parameter and `Retry-After`, and
//! to the response.
//!
//! Each step has its own error type ([`headers::Error`], [`hold::Error`], [`pick::Error`], [`forward::Error`]). Only
//! [`forward::Error`] has a retry decision, because only forwarding retries.

mod abort;
mod response;

use std::sync::Arc;
use std::time::Duration;

use forebay_openai::ModelName;
use forebay_resources::ObjectKey;
use http::StatusCode;

pub(crate) use abort::Abort;
pub(crate) use response::render;

use crate::limit::Standing;
use crate::observe::client_closed_request;
use crate::{auth, forward, headers, hold, limit, pick};

/// Which side caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorSource {
    Client,
    Upstream,
    Picker,
    Internal,
}

/// Why a request got no response of an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Headers(#[from] headers::Error),
    #[error(transparent)]
    Auth(#[from] auth::Error),
    #[error(transparent)]
    Limit(#[from] Box<limit::Exceeded>),
    #[error(transparent)]
    GlobalLimit(#[from] Box<limit::GlobalExceeded>),
    #[error(
        "the server of the rate limits of AgentgatewayPolicy {policy} gives no answer, and it rejects requests then; try again"
    )]
    LimitServerUnavailable { policy: ObjectKey },
    #[error(transparent)]
    Quota(#[from] Box<limit::QuotaExceeded>),
    #[error(
        "Quota {quota} limits money and has no price for the model `{model}`; add it to spec.prices, or \"*\" for all others"
    )]
    UnpricedModel { quota: ObjectKey, model: ModelName },
    #[error("the counters of Quota {quota} are not reachable, and it rejects requests then; try again")]
    QuotaStoreUnavailable { quota: ObjectKey },
    #[error(transparent)]
    Hold(#[from] hold::Error),
    #[error(transparent)]
    Pick(#[from] pick::Error),
    #[error(transparent)]
    Forward(#[from] forward::Error),
    #[error("header {0} does not contain a valid model name")]
    InvalidRewrite(&'static str),
    #[error("the model `{0}` does not exist")]
    UnknownModel(ModelName),
    #[error("the model `{0}` does not exist")]
    UnknownModelInPath(String),
    /// The models that were asked for are not known, and an endpoint did not list its models.
    #[error("the models are not known: {0}")]
    ModelsUnavailable(String),
    #[error("{limit} requests are in flight, which is the limit of this gateway (--max-requests)")]
    TooManyRequests { limit: usize },
    #[error("no route matches this request")]
    NoRoute,
    /// The certificate of another listener was used for the connection (RFC 9110 §15.5.20).
    #[error("the connection was opened for another host")]
    Misdirected,
    /// A policy restricts the listener or the rule, and the gateway does not enforce it.
    #[error("access is denied by a policy that this gateway does not enforce: {0}")]
    PolicyNotEnforced(Arc<str>),
    #[error("the route's backend cannot be used: {0}")]
    Backend(&'static str),
    #[error("the request took longer than the {} s that its route allows", limit.as_secs_f64())]
    RequestTimeout { limit: Duration },
}

/// How an error is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    source: ErrorSource,
    status: StatusCode,
    code: &'static str,
    /// `error.param` of OpenAI: the member of the request body that caused the error.
    param: Option<&'static str>,
}

impl Class {
    const fn new(source: ErrorSource, status: StatusCode, code: &'static str) -> Self {
        Self { source, status, code, param: None }
    }
}

impl Error {
    pub(crate) fn source_of_failure(&self) -> ErrorSource {
        self.class().source
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.class().status
    }

    /// Stable code for programs: `error.code` of the response and label of the metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.class().code
    }

    /// `error.param` of the response.
    pub(crate) fn param(&self) -> Option<&'static str> {
        self.class().param
    }

    /// When a client may retry.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limit(exceeded) => return Some(exceeded.retry_after),
            Self::GlobalLimit(exceeded) => return Some(exceeded.retry_after),
            Self::Quota(exceeded) => return Some(exceeded.retry_after),
            _ => {}
        }
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// What is left of the limits that the request exceeds, and of the other limits that apply.
    pub(crate) fn standings(&self) -> &[Standing] {
        match self {
            Self::Limit(exceeded) => &exceeded.standings,
            Self::GlobalLimit(exceeded) => &exceeded.standings,
            Self::Quota(exceeded) => &exceeded.standings,
            _ => &[],
        }
    }

    fn class(&self) -> Class {
        use ErrorSource::{Client, Internal, Upstream};
        match self {
            Self::Headers(error) => headers_class(error),
            Self::Auth(error) => auth_class(error),
            Self::Limit(_) | Self::GlobalLimit(_) => {
                Class::new(Client, StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
            Self::LimitServerUnavailable { .. } => {
                Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "rate_limit_server_unavailable")
            }
            Self::Quota(_) => Class::new(Client, StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"),
            Self::UnpricedModel { .. } => Class {
                param: Some("model"),
                ..Class::new(Internal, StatusCode::FORBIDDEN, "model_not_priced")
            },
            Self::QuotaStoreUnavailable { .. } => {
                Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "quota_store_unavailable")
            }
            Self::Hold(error) => hold_class(error),
            Self::Pick(error) => pick_class(error),
            Self::Forward(error) => forward_class(error),
            Self::InvalidRewrite(_) => Class::new(Client, StatusCode::BAD_REQUEST, "invalid_model_rewrite"),
            Self::UnknownModel(_) | Self::UnknownModelInPath(_) => {
                Class { param: Some("model"), ..Class::new(Client, StatusCode::NOT_FOUND, "model_not_found") }
            }
            Self::ModelsUnavailable(_) => Class::new(Upstream, StatusCode::BAD_GATEWAY, "models_unavailable"),
            Self::TooManyRequests { .. } => {
                Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "requests_exhausted")
            }
            Self::NoRoute => Class::new(Client, StatusCode::NOT_FOUND, "route_not_found"),
            Self::Misdirected => Class::new(Client, StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::PolicyNotEnforced(_) => Class::new(Internal, StatusCode::FORBIDDEN, "policy_not_enforced"),
            // Gateway API: a request to a backendRef that cannot be resolved gets a 500.
            Self::Backend(_) => Class::new(Internal, StatusCode::INTERNAL_SERVER_ERROR, "backend_unresolved"),
            Self::RequestTimeout { .. } => {
                Class::new(Upstream, StatusCode::GATEWAY_TIMEOUT, "request_timeout")
            }
        }
    }
}

fn headers_class(error: &headers::Error) -> Class {
    let (status, code) = match error {
        headers::Error::AmbiguousLength => (StatusCode::BAD_REQUEST, "ambiguous_length"),
        headers::Error::UpgradeUnsupported => (StatusCode::NOT_IMPLEMENTED, "upgrade_unsupported"),
        headers::Error::NoHost => (StatusCode::BAD_REQUEST, "no_host"),
        headers::Error::InvalidPath => (StatusCode::BAD_REQUEST, "invalid_path"),
    };
    Class::new(ErrorSource::Client, status, code)
}

fn auth_class(error: &auth::Error) -> Class {
    use ErrorSource::{Client, Internal};
    match error {
        auth::Error::NoKey { .. } => Class::new(Client, StatusCode::UNAUTHORIZED, "missing_api_key"),
        auth::Error::InvalidKey { .. } | auth::Error::SeveralKeys { .. } => {
            Class::new(Client, StatusCode::UNAUTHORIZED, "invalid_api_key")
        }
        auth::Error::ExpiredKey { .. } => Class::new(Client, StatusCode::UNAUTHORIZED, "expired_api_key"),
        auth::Error::NoToken { .. } => Class::new(Client, StatusCode::UNAUTHORIZED, "missing_token"),
        auth::Error::InvalidToken { .. } | auth::Error::SeveralTokens { .. } => {
            Class::new(Client, StatusCode::UNAUTHORIZED, "invalid_token")
        }
        auth::Error::ExpiredToken { .. } => Class::new(Client, StatusCode::UNAUTHORIZED, "expired_token"),
        auth::Error::TokenKeysUnavailable => {
            Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "token_keys_unavailable")
        }
        auth::Error::Denied => Class::new(Client, StatusCode::FORBIDDEN, "permission_denied"),
    }
}

fn read_class(error: &hold::ReadError) -> Class {
    let (status, code) = match error {
        hold::ReadError::Body(error) => (error.http_status(), error.code()),
        hold::ReadError::Broken => (StatusCode::BAD_REQUEST, "body_broken"),
        hold::ReadError::ClientGone => (client_closed_request(), "client_closed_request"),
        hold::ReadError::Stalled { .. } | hold::ReadError::TooSlow { .. } => {
            (StatusCode::REQUEST_TIMEOUT, "body_timeout")
        }
    };
    let param = match error {
        hold::ReadError::Body(error) => error.param(),
        _ => None,
    };
    Class { param, ..Class::new(ErrorSource::Client, status, code) }
}

fn hold_class(error: &hold::Error) -> Class {
    use ErrorSource::{Client, Internal};
    match error {
        hold::Error::Read(error) => read_class(error),
        hold::Error::TooLarge { .. } => Class::new(Client, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        hold::Error::BudgetExhausted => {
            Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "hold_budget_exhausted")
        }
    }
}

fn pick_class(error: &pick::Error) -> Class {
    use ErrorSource::Picker;
    match error {
        pick::Error::NoReadyEndpoint => {
            Class::new(Picker, StatusCode::SERVICE_UNAVAILABLE, "no_ready_endpoint")
        }
        pick::Error::Unschedulable(error) => Class::new(Picker, error.http_status(), error.code()),
        pick::Error::Unavailable(_) => {
            Class::new(Picker, StatusCode::SERVICE_UNAVAILABLE, "picker_unavailable")
        }
        pick::Error::Rejected(rejection) => Class::new(Picker, rejection.status, "picker_rejected"),
        pick::Error::Hold(error) => hold_class(error),
        pick::Error::Forward(error) => forward_class(error),
    }
}

fn forward_class(error: &forward::Error) -> Class {
    use ErrorSource::{Internal, Picker, Upstream};
    match error {
        forward::Error::NoEndpoint => {
            Class::new(Picker, StatusCode::SERVICE_UNAVAILABLE, "no_ready_endpoint")
        }
        forward::Error::Connect(_) | forward::Error::ConnectTimeout { .. } => {
            Class::new(Upstream, StatusCode::BAD_GATEWAY, "upstream_connect")
        }
        forward::Error::TooManyConnections => {
            Class::new(Internal, StatusCode::SERVICE_UNAVAILABLE, "upstream_connections_exhausted")
        }
        forward::Error::Exchange { .. } => Class::new(Upstream, StatusCode::BAD_GATEWAY, "upstream_reset"),
        forward::Error::Status(_) => Class::new(Upstream, StatusCode::BAD_GATEWAY, "upstream_status"),
        forward::Error::FirstByteTimeout { .. } => {
            Class::new(Upstream, StatusCode::GATEWAY_TIMEOUT, "upstream_timeout")
        }
        forward::Error::BackendRequestTimeout { .. } => {
            Class::new(Upstream, StatusCode::GATEWAY_TIMEOUT, "backend_request_timeout")
        }
        forward::Error::Upload(error) => read_class(error),
    }
}
