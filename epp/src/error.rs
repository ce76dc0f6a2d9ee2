//! Everything that can go wrong, and what it means to the HTTP client.

use std::{io, net::SocketAddr};

use forebay_resources::ObjectKey;
use forebay_service::tls;
use http::StatusCode;

/// Where the fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The pool as it is now has no endpoint for this request.
    Pool,
    /// A bound of this process.
    Picker,
    /// Flags, files or the machine; only at start.
    Setup,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("InferencePool {0} does not exist")]
    NoPool(ObjectKey),
    #[error("no pod of InferencePool {0} is ready")]
    NoReadyEndpoint(ObjectKey),
    #[error("no ready endpoint of InferencePool {0} is in the request's endpoint subset")]
    OutsideSubset(ObjectKey),
    #[error("every eligible pod of InferencePool {0} has lost a GPU")]
    GpusLost(ObjectKey),
    #[error("more than {0} requests are open")]
    TooManyStreams(usize),

    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen { purpose: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    #[error("cannot use TLS: {0}")]
    Tls(#[from] tls::Error),
    #[error("{0:?} is not a label selector: write name=value, more than one with commas between")]
    Selector(String),
    #[error("cannot watch for SIGTERM and SIGINT: {0}")]
    Signals(io::Error),
}

impl Error {
    pub fn source_of_fault(&self) -> Source {
        match self {
            Self::NoPool(_) | Self::NoReadyEndpoint(_) | Self::OutsideSubset(_) | Self::GpusLost(_) => {
                Source::Pool
            }
            Self::TooManyStreams(_) => Source::Picker,
            Self::Listen { .. }
            | Self::Resources(_)
            | Self::Tls(_)
            | Self::Selector(_)
            | Self::Signals(_) => Source::Setup,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        self.source_of_fault() != Source::Setup
    }

    /// The Endpoint Picker Protocol asks for 503 whenever nothing can be picked.
    pub fn http_status(&self) -> StatusCode {
        match self.source_of_fault() {
            Source::Pool | Source::Picker => StatusCode::SERVICE_UNAVAILABLE,
            Source::Setup => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable, for the `code` of an OpenAI error and for metric labels.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPool(_) => "pool_not_found",
            Self::NoReadyEndpoint(_) => "no_ready_endpoint",
            Self::OutsideSubset(_) => "no_endpoint_in_subset",
            Self::GpusLost(_) => "gpus_lost",
            Self::TooManyStreams(_) => "too_many_requests_open",
            Self::Listen { .. }
            | Self::Resources(_)
            | Self::Tls(_)
            | Self::Selector(_)
            | Self::Signals(_) => "internal_error",
        }
    }
}
