//! What operators see: metrics, health, the access log, traces and explanations.

mod access;
mod admin;
mod exemplars;
mod explain;
mod gen_ai;
mod labels;
mod log_limit;
mod logs;
mod metrics;
mod record;
mod traces;

pub(crate) use access::AccessLog;
pub(crate) use admin::{Health, serve_admin};
pub(crate) use explain::{EXPLANATION, Explanation};
#[cfg(test)]
pub(crate) use labels::ModelLabels;
pub(crate) use labels::{MirrorResult, PickResult, PickerFailureOutcome, RetryReason};
pub(crate) use log_limit::LogLimit;
pub(crate) use logs::Logs;
pub(crate) use metrics::{ConnectionMetrics, Metrics, UNKNOWN};
pub(crate) use record::{Record, client_closed_request};
pub(crate) use traces::Traces;
