//! Metrics, health, the access log and traces.

mod access;
mod admin;
mod explain;
mod metrics;
mod pickers;
mod record;
mod traces;

pub(crate) use access::AccessLog;
pub(crate) use admin::{Health, serve_admin};
pub(crate) use explain::{EXPLANATION, Explanation};
pub(crate) use metrics::{Metrics, MirrorResult, PickResult, PickerFaultOutcome, RetryReason};
pub(crate) use pickers::PickerMetrics;
pub(crate) use record::Record;
pub(crate) use traces::Traces;
