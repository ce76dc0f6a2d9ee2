use std::time::Duration;

use forebay_resources::ObjectKey;
use forebay_routing::RateLimit;

use super::standing::Standing;

/// A limit leaves no room for the request.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the limit of {limit} (AgentgatewayPolicy {policy}) is reached; try again in {} s",
    .retry_after.as_secs_f64().ceil()
)]
pub(crate) struct Exceeded {
    pub(crate) policy: ObjectKey,
    pub(crate) limit: RateLimit,
    /// When there is room, if no other request uses it.
    pub(crate) retry_after: Duration,
    /// The limits of the policy.
    pub(crate) standings: Vec<Standing>,
}
