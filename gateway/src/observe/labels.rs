//! Label sets of the metrics.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RequestLabels {
    model: Arc<str>,
    pool: Arc<str>,
    code: u16,
}

impl RequestLabels {
    pub(super) fn new(labels: &ModelLabels, status: StatusCode) -> Self {
        Self { model: labels.model.clone(), pool: labels.pool.clone(), code: status.as_u16() }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ModelLabels {
    pub(crate) model: Arc<str>,
    pub(crate) pool: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct PickLabels {
    pub(super) pool: Arc<str>,
    pub(super) result: PickResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum PickResult {
    /// The picker made a decision.
    Picked,
    /// The picker failed and the pool fails open.
    FailedOpen,
    /// The picker failed and the pool fails closed.
    FailedClosed,
    /// The picker sent a response instead of a decision.
    Rejected,
    /// The pool has no ready endpoint, or none of the chosen endpoints is ready.
    NoReadyEndpoint,
}

impl EncodeLabelValue for PickResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Picked => "picked",
            Self::FailedOpen => "failed_open",
            Self::FailedClosed => "failed_closed",
            Self::Rejected => "rejected",
            Self::NoReadyEndpoint => "no_ready_endpoint",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct QuotaLabels {
    pub(super) quota: String,
    pub(super) result: QuotaResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum QuotaResult {
    /// There was room for the request.
    Admitted,
    /// There was no room, and the quota only warns.
    Warned,
    /// There was no room.
    Rejected,
}

impl EncodeLabelValue for QuotaResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Admitted => "admitted",
            Self::Warned => "warned",
            Self::Rejected => "rejected",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct QuotaNameLabels {
    pub(super) quota: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) reason: RetryReason,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum RetryReason {
    /// Connecting failed: the next endpoint was tried.
    ConnectFailed,
    /// The endpoint closed an idle connection while it was reused.
    ReusedConnectionClosed,
    /// A replica of the picker was unreachable or did not reply: the next one was asked.
    PickerUnreachable,
    /// The retry policy of the route.
    Policy,
}

impl EncodeLabelValue for RetryReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::ConnectFailed => "connect_failed",
            Self::ReusedConnectionClosed => "reused_connection_closed",
            Self::PickerUnreachable => "picker_unreachable",
            Self::Policy => "policy",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct MirrorLabels {
    pub(super) result: MirrorResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum MirrorResult {
    Sent,
    Failed,
    /// No endpoint, too many copies in flight, or the body was too large.
    Skipped,
    /// A policy closes the backend.
    Closed,
}

impl EncodeLabelValue for MirrorResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Closed => "closed",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct PickerFailureLabels {
    pub(super) outcome: PickerFailureOutcome,
}

/// Outcome of a response whose picker failed while it relayed the body.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum PickerFailureOutcome {
    /// The rest of the response bypassed the picker.
    Bypassed,
    /// The picker had bytes that were lost: the response was aborted.
    Aborted,
}

impl EncodeLabelValue for PickerFailureOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Bypassed => "bypassed",
            Self::Aborted => "aborted",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ErrorLabels {
    pub(super) code: &'static str,
}

/// Bounded by the policies.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) policy: String,
    pub(super) measure: &'static str,
}

/// Bounded by the policies.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct KeySetLabels {
    pub(super) key_set: String,
    pub(super) result: LoadResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum LoadResult {
    Loaded,
    Failed,
}

impl EncodeLabelValue for LoadResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Loaded => "loaded",
            Self::Failed => "failed",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct TokenLabels {
    pub(super) model: Arc<str>,
    pub(super) pool: Arc<str>,
    pub(super) r#type: &'static str,
}
