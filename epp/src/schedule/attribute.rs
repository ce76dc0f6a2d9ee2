//! Numbers of endpoints that configurations name.

use serde::{Deserialize, Deserializer, de::Error as _};

use super::view::View;

/// A number of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) enum Attribute {
    /// Own requests in flight.
    Active,
    /// Requests in flight of all clients.
    InFlight,
    Running,
    Queued,
    KvUsage,
}

/// vLLM's metrics, and the requests that agents count at the sockets.
const NAMES: [(&str, Attribute); 4] = [
    ("num_requests_running", Attribute::Running),
    ("num_requests_waiting", Attribute::Queued),
    ("kv_cache_usage_perc", Attribute::KvUsage),
    ("requests_in_flight", Attribute::InFlight),
];

impl Attribute {
    /// `None` if it is not known.
    pub(super) fn value(self, view: &View<'_>, candidate: u32) -> Option<f32> {
        match self {
            Self::Active => Some(view.own_in_flight(candidate)),
            Self::InFlight => Some(view.in_flight(candidate)),
            Self::Running => view.running(candidate),
            Self::Queued => view.queued(candidate),
            Self::KvUsage => view.kv_usage(candidate),
        }
    }

    /// By the name of an attribute in `endpoint-attribute-*`.
    pub(super) fn by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let short = name.strip_prefix("vllm:").unwrap_or(&name);
        let found = NAMES.iter().find(|(known, _)| *known == short);
        found.map(|(_, attribute)| *attribute).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            D::Error::custom(format_args!("endpoints have no attribute {name:?}; they have {names}"))
        })
    }
}
