//! Errors, and their mapping to status, code and retry.

use std::{io, net::SocketAddr};

use forebay_resources::ObjectKey;
use forebay_service::tls;
use http::StatusCode;

/// Which side caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSource {
    /// The pool does not exist or has no eligible endpoint.
    Pool,
    /// A limit of this process.
    Picker,
    /// Flags, files or the machine. Only at startup.
    Setup,
}

/// Why a pick failed, or why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The InferencePool is not in the store.
    #[error("InferencePool {0} does not exist")]
    NoPool(ObjectKey),
    /// The pool has no members.
    #[error("no pod of InferencePool {0} is ready")]
    NoReadyEndpoint(ObjectKey),
    /// The subset hint contains no member.
    #[error("no ready endpoint of InferencePool {0} is in the request's endpoint subset")]
    OutsideSubset(ObjectKey),
    /// All eligible endpoints are on lost GPUs.
    #[error("every eligible pod of InferencePool {0} has lost a GPU")]
    GpusLost(ObjectKey),
    /// The filters of the pipeline left no endpoint.
    #[error("the filters of the picker's configuration leave no endpoint of InferencePool {0}")]
    FilteredOut(ObjectKey),
    /// The resources are not loaded, so no pool is known.
    #[error("the resources are not loaded yet")]
    NotLoaded,
    /// The gateway names a pool that this process does not serve.
    #[error("InferencePool {pool:?} does not exist or is not served here: this picker serves {scope}")]
    PoolNotServed {
        /// What the gateway sent.
        pool: String,
        /// What is served.
        scope: String,
    },
    /// The authority of the stream is not a Service of a pool.
    #[error(
        "no InferencePool for the authority {authority:?}: the gateway must send metadata forebay.dev/pool (NAMESPACE/NAME), \
         or as :authority the Service (NAME.NAMESPACE.svc) that the endpointPickerRef of a pool names; this picker serves {scope}"
    )]
    UnknownService {
        /// What the gateway sent.
        authority: String,
        /// What is served.
        scope: String,
    },
    /// Several pools name the Service in the authority.
    #[error(
        "the authority {authority:?} and port {port} name no single InferencePool: the endpointPickerRefs of {pools} name this \
         Service; give each another port and listen on it (--grpc-listen), or each a Service of its own"
    )]
    AmbiguousService {
        /// What the gateway sent.
        authority: String,
        /// Port of the authority, else of the connection.
        port: u16,
        /// Some of the pools.
        pools: String,
    },
    /// The limit of concurrent ext_proc streams is reached.
    #[error("the limit of {0} concurrent requests is reached")]
    TooManyStreams(usize),

    /// No address for ext_proc.
    #[error("no address to listen on for ext_proc; set --grpc-listen")]
    NoListener,
    /// A listener cannot be bound.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// What the listener serves.
        purpose: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The resources cannot be read.
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    /// Certificate or key cannot be used.
    #[error("cannot use TLS: {0}")]
    Tls(#[from] tls::Error),
    /// The agent selector is invalid.
    #[error("{0:?} is not a label selector; use name=value[,name=value…]")]
    Selector(String),
    /// Signal handlers cannot be installed.
    #[error("cannot watch for SIGTERM and SIGINT: {0}")]
    Signals(io::Error),
}

impl Error {
    /// Which side caused the error.
    pub fn error_source(&self) -> ErrorSource {
        match self {
            Self::NoPool(_)
            | Self::NoReadyEndpoint(_)
            | Self::OutsideSubset(_)
            | Self::GpusLost(_)
            | Self::FilteredOut(_)
            | Self::PoolNotServed { .. }
            | Self::UnknownService { .. }
            | Self::AmbiguousService { .. } => ErrorSource::Pool,
            Self::NotLoaded | Self::TooManyStreams(_) => ErrorSource::Picker,
            Self::NoListener
            | Self::Listen { .. }
            | Self::Resources(_)
            | Self::Tls(_)
            | Self::Selector(_)
            | Self::Signals(_) => ErrorSource::Setup,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.error_source() != ErrorSource::Setup
    }

    /// Status of the response. The Endpoint Picker Protocol requires 503 if no endpoint can be picked.
    pub fn http_status(&self) -> StatusCode {
        match self.error_source() {
            ErrorSource::Pool | ErrorSource::Picker => StatusCode::SERVICE_UNAVAILABLE,
            ErrorSource::Setup => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable code: `error.code` of the response, and a metric label.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPool(_) => "pool_not_found",
            Self::NoReadyEndpoint(_) => "no_ready_endpoint",
            Self::OutsideSubset(_) => "no_endpoint_in_subset",
            Self::GpusLost(_) => "gpus_lost",
            Self::FilteredOut(_) => "no_endpoint_after_filters",
            Self::PoolNotServed { .. } => "pool_not_served",
            Self::UnknownService { .. } => "unknown_service",
            Self::AmbiguousService { .. } => "ambiguous_service",
            Self::NotLoaded => "not_loaded",
            Self::TooManyStreams(_) => "too_many_requests_in_flight",
            Self::NoListener
            | Self::Listen { .. }
            | Self::Resources(_)
            | Self::Tls(_)
            | Self::Selector(_)
            | Self::Signals(_) => "internal_error",
        }
    }
}
