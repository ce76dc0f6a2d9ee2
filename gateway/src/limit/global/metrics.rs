//! What is measured of rate limit servers.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Result of a call.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum CallResult {
    Allowed,
    OverLimit,
    Reported,
    Read,
    Failed,
}

impl CallResult {
    const ALL: [Self; 5] = [Self::Allowed, Self::OverLimit, Self::Reported, Self::Read, Self::Failed];
}

impl EncodeLabelValue for CallResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Allowed => "allowed",
            Self::OverLimit => "over_limit",
            Self::Reported => "reported",
            Self::Read => "read",
            Self::Failed => "failed",
        })
    }
}

/// Bounded by the policies.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    server: String,
    result: CallResult,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LimitServerMetrics {
    calls: Family<CallLabels, Counter>,
    dropped_reports: Counter,
}

impl LimitServerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rate_limit_server_calls",
            "Calls to servers of global rate limits (namespace/name:port), by result. reported: tokens of a request that has \
             ended. read: for GET /forebay/v1/limits",
            self.calls.clone(),
        );
        registry.register(
            "rate_limit_server_dropped_reports",
            "Requests whose tokens were not reported to servers of global rate limits, because too many reports wait",
            self.dropped_reports.clone(),
        );
    }

    pub(crate) fn called(&self, server: &str, result: CallResult) {
        self.calls.get_or_create(&CallLabels { server: server.to_owned(), result }).inc();
    }

    pub(super) fn dropped_report(&self) {
        self.dropped_reports.inc();
    }

    /// No policy names the server any more.
    pub(super) fn forget(&self, server: &str) {
        for result in CallResult::ALL {
            self.calls.remove(&CallLabels { server: server.to_owned(), result });
        }
    }
}
