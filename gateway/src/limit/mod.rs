//! Rate limits of policies, and quotas ([`quota`]).
//!
//! A rate limit is a token bucket in this process: replicas of the gateway do not share it. A request takes from all
//! rate limits and quotas that apply to it, or from none. Tokens are not known when a request is admitted, so an estimate is taken, and corrected when
//! the request ends ([`Admission::settle`]). The prompt is estimated from the size of the body, the output is the maximum
//! that the request sets, or else what earlier requests for the model used. A bucket can thus be in debt by what requests
//! in flight use above their estimates, and never by more.
//!
//! What servers count for all gateways is in [`global`].
//!
//! A request that needs more than the whole bucket is admitted when the bucket is full, and leaves a debt.

mod admission;
mod bucket;
mod estimate;
mod exceeded;
mod global;
mod quota;
mod registry;
mod served;
mod standing;

pub(crate) use admission::{Admission, Rejection, admit};
pub(crate) use estimate::Expected;
pub(crate) use exceeded::Exceeded;
#[cfg(test)]
pub(crate) use global::CallResult;
pub(crate) use global::{
    Answer, GlobalExceeded, GlobalRejection, LimitReports, LimitServerMetrics, LimitServerRegistry,
    LimitServers, Question,
};
pub(crate) use quota::{
    QuotaExceeded, QuotaFile, QuotaRegistry, QuotaRejection, QuotaStanding, QuotaState, QuotaStore,
    QuotaStoreMetrics, QuotaStoreOptions, QuotaTaken, Share, open_file, open_store, unix_seconds,
};
pub(crate) use registry::{LimitRegistry, PolicyState};
pub(crate) use served::Served;
pub(crate) use standing::Standing;
