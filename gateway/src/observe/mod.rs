//! Metrics, health and the access log.

mod admin;
mod metrics;
mod record;

pub(crate) use admin::{Health, serve_admin};
pub(crate) use metrics::{Metrics, MirrorResult, PickResult, RetryReason};
pub(crate) use record::Record;
