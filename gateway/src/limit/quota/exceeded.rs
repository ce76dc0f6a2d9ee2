use std::time::Duration;

use forebay_resources::ObjectKey;
use forebay_routing::QuotaLimit;

use super::window::rfc3339;
use crate::limit::standing::Standing;

/// A quota leaves no room for the request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the limit of {limit} (Quota {quota}) is reached; {}", opening(*.opens_at, *.retry_after))]
pub(crate) struct QuotaExceeded {
    pub(crate) quota: ObjectKey,
    pub(crate) limit: QuotaLimit,
    /// Seconds since 1970. `None` of a limit of concurrent requests.
    pub(crate) opens_at: Option<u64>,
    /// Until then. One second for concurrent requests: it is not known when they end.
    pub(crate) retry_after: Duration,
    /// The limits of the quota.
    pub(crate) standings: Vec<Standing>,
    /// The value of `per` has no counters of its own.
    pub(crate) is_crowded_out: bool,
}

/// Why a quota does not admit a request.
#[derive(Clone, Debug)]
pub(crate) enum QuotaRejection {
    Exceeded(Box<QuotaExceeded>),
    /// The store of the counters does not answer, and the quota is closed then.
    StoreUnavailable(ObjectKey),
}

impl From<Box<QuotaExceeded>> for QuotaRejection {
    fn from(exceeded: Box<QuotaExceeded>) -> Self {
        Self::Exceeded(exceeded)
    }
}

fn opening(opens_at: Option<u64>, retry_after: Duration) -> String {
    match opens_at {
        Some(at) => format!("it opens at {}, try again in {} s", rfc3339(at), retry_after.as_secs()),
        None => "try again when one of them has ended".to_owned(),
    }
}
