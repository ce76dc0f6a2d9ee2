use std::time::Duration;

use forebay_resources::ObjectKey;
use forebay_routing::QuotaLimit;

use super::window::rfc3339;
use crate::limit::standing::Standing;

/// A quota leaves no room for the request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} (Quota {quota}) is reached; {}", self.reached(), self.opening())]
pub(crate) struct QuotaExceeded {
    pub(crate) quota: ObjectKey,
    pub(crate) limit: QuotaLimit,
    /// What this gateway admits of the limit.
    pub(crate) share: u128,
    /// Seconds since 1970. `None` of a limit of concurrent requests, and of a share of nothing.
    pub(crate) opens_at: Option<u64>,
    /// Until then. One second if it is not known when there is room.
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

impl QuotaExceeded {
    fn reached(&self) -> String {
        if self.share == self.limit.amount {
            return format!("the limit of {}", self.limit);
        }
        let share = self.limit.format(self.share);
        format!("the share of this gateway, {share} of the limit of {}", self.limit)
    }

    fn opening(&self) -> String {
        match self.opens_at {
            Some(at) => format!("it opens at {}, try again in {} s", rfc3339(at), self.retry_after.as_secs()),
            None if self.share == 0 => "try again, another gateway may have room".to_owned(),
            None => "try again when one of them has ended".to_owned(),
        }
    }
}
