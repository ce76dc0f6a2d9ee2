use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::HashMap;
use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::answer::Usage;

/// Label values come from the resources, or are this.
pub(crate) const UNKNOWN: &str = "unknown";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    model: Arc<str>,
    pool: Arc<str>,
    code: u16,
}

impl RequestLabels {
    fn new(labels: &ModelLabels, status: StatusCode) -> Self {
        Self { model: labels.model.clone(), pool: labels.pool.clone(), code: status.as_u16() }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ModelLabels {
    pub(crate) model: Arc<str>,
    pub(crate) pool: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PickLabels {
    pool: Arc<str>,
    result: PickResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum PickResult {
    /// The picker chose.
    Picked,
    /// The picker failed and the pool fails open.
    FailedOpen,
    /// The picker failed and the pool fails closed.
    FailedClosed,
    /// The picker answered the request itself.
    Rejected,
    /// No endpoint of the pool is ready, or none that was chosen.
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
struct RetryLabels {
    reason: RetryReason,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum RetryReason {
    /// The next endpoint of the list was taken.
    ConnectFailed,
    /// The model server closed an idle connection while it was being used again.
    ReusedConnectionClosed,
    /// The next replica of the picker was asked.
    PickerUnreachable,
    /// The route's `retry` said so.
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
struct MirrorLabels {
    result: MirrorResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum MirrorResult {
    Sent,
    Failed,
    /// There was no endpoint, no room for one more, or the body was too large to be copied.
    LeftOut,
}

impl EncodeLabelValue for MirrorResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::LeftOut => "left_out",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PickerFaultLabels {
    outcome: PickerFaultOutcome,
}

/// What became of a response whose picker failed in the middle of it.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum PickerFaultOutcome {
    PassedOn,
    BrokenOff,
}

impl EncodeLabelValue for PickerFaultOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::PassedOn => "passed_on",
            Self::BrokenOff => "broken_off",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    model: Arc<str>,
    pool: Arc<str>,
    r#type: &'static str,
}

type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// The series of one model and pool, found once for a request.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: ModelLabels,
    pub(crate) ttft: Histogram,
    pub(crate) itl: Histogram,
    pub(crate) upstream: Histogram,
    answered_200: Counter,
    prompt_tokens: Counter,
    completion_tokens: Counter,
}

/// Everything under `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    picks: Family<PickLabels, Counter>,
    /// Those with [`PickResult::Picked`], by pool: asked for with every request.
    picked: RwLock<HashMap<Arc<str>, Counter>>,
    retries: Family<RetryLabels, Counter>,
    mirrors: Family<MirrorLabels, Counter>,
    picker_response_faults: Family<PickerFaultLabels, Counter>,
    pub(crate) processing: Histogram,
    pub(crate) picking: Histogram,
    ttft: Histograms,
    itl: Histograms,
    upstream: Histograms,
    tokens: Family<TokenLabels, Counter>,
    stream_errors: Family<ModelLabels, Counter>,
    pub(crate) log_lines_left_out: Counter,
    pub(crate) active_requests: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) hold_bytes: Gauge,
    /// As many as there are labels; those come from the resources.
    series: RwLock<HashMap<ModelLabels, Arc<Series>>>,
    /// Where every request begins.
    unknown: OnceLock<Arc<Series>>,
}

impl Series {
    pub(crate) fn used(&self, usage: Usage) {
        self.prompt_tokens.inc_by(usage.prompt_tokens);
        self.completion_tokens.inc_by(usage.completion_tokens);
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("forebay_gateway");
        let metrics = Self {
            requests: Family::default(),
            errors: Family::default(),
            picks: Family::default(),
            picked: RwLock::default(),
            retries: Family::default(),
            mirrors: Family::default(),
            picker_response_faults: Family::default(),
            // 20 us to 160 ms, doubling.
            processing: Histogram::new(doubling(20e-6, 14)),
            // 100 us to 3.3 s, doubling.
            picking: Histogram::new(doubling(100e-6, 16)),
            // 1 ms to 524 s, doubling: a queue in front of prefill is in it.
            ttft: Family::new_with_constructor(|| Histogram::new(doubling(1e-3, 20))),
            // 1 ms to 16 s, doubling.
            itl: Family::new_with_constructor(|| Histogram::new(doubling(1e-3, 15))),
            upstream: Family::new_with_constructor(|| Histogram::new(doubling(1e-3, 21))),
            tokens: Family::default(),
            stream_errors: Family::default(),
            log_lines_left_out: Counter::default(),
            active_requests: Gauge::default(),
            connections: Gauge::default(),
            hold_bytes: Gauge::default(),
            series: RwLock::default(),
            unknown: OnceLock::new(),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests by model, pool and status; 499: the client left first",
            metrics.requests.clone(),
        );
        registry.register(
            "errors",
            "Requests that no engine answered, or whose response broke off, by error code",
            metrics.errors.clone(),
        );
        registry.register("picks", "How the endpoint was chosen", metrics.picks.clone());
        registry.register("retries", "What was tried again", metrics.retries.clone());
        registry.register("mirrors", "Copies of requests", metrics.mirrors.clone());
        registry.register(
            "picker_response_faults",
            "Responses whose picker failed, or did not answer in time, with their body in its hands",
            metrics.picker_response_faults.clone(),
        );
        registry.register_with_unit(
            "processing",
            "The gateway's own time on a request until it is sent on: without waits for the client, the picker and connections",
            Unit::Seconds,
            metrics.processing.clone(),
        );
        registry.register_with_unit(
            "picking",
            "Time until the picker's decision",
            Unit::Seconds,
            metrics.picking.clone(),
        );
        registry.register_with_unit(
            "ttft",
            "From the request's arrival to the first event of a stream, or the first byte of another response body",
            Unit::Seconds,
            metrics.ttft.clone(),
        );
        registry.register_with_unit(
            "upstream",
            "From sending the request on to the end of the response",
            Unit::Seconds,
            metrics.upstream.clone(),
        );
        registry.register_with_unit(
            "itl",
            "From one event of a stream to the next; an event holds one token or a few",
            Unit::Seconds,
            metrics.itl.clone(),
        );
        registry.register(
            "tokens",
            "Tokens as the engines' usage says them: prompt and completion",
            metrics.tokens.clone(),
        );
        registry.register(
            "stream_errors",
            "Errors that engines reported inside a stream with the status 200",
            metrics.stream_errors.clone(),
        );
        registry.register(
            "access_log_lines_left_out",
            "Lines of the access log that could not be written in time",
            metrics.log_lines_left_out.clone(),
        );
        registry.register(
            "active_requests",
            "Requests that are not finished",
            metrics.active_requests.clone(),
        );
        registry.register("connections", "Open connections of clients", metrics.connections.clone());
        registry.register_with_unit("hold", "Request bodies held", Unit::Bytes, metrics.hold_bytes.clone());
        Self { registry, ..metrics }
    }

    /// Of requests whose model and pool are not known yet; `label` stands for both.
    pub(crate) fn unknown_series(&self, label: &Arc<str>) -> Arc<Series> {
        self.unknown.get_or_init(|| self.series(label, label)).clone()
    }

    pub(crate) fn series(&self, model: &Arc<str>, pool: &Arc<str>) -> Arc<Series> {
        let labels = ModelLabels { model: model.clone(), pool: pool.clone() };
        if let Some(known) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&labels) {
            return known.clone();
        }
        let tokens = |r#type| {
            let labels = TokenLabels { model: model.clone(), pool: pool.clone(), r#type };
            self.tokens.get_or_create(&labels).clone()
        };
        let series = Arc::new(Series {
            ttft: self.ttft.get_or_create(&labels).clone(),
            itl: self.itl.get_or_create(&labels).clone(),
            upstream: self.upstream.get_or_create(&labels).clone(),
            answered_200: self.requests.get_or_create(&RequestLabels::new(&labels, StatusCode::OK)).clone(),
            prompt_tokens: tokens("prompt"),
            completion_tokens: tokens("completion"),
            labels: labels.clone(),
        });
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(labels).or_insert(series).clone()
    }

    pub(crate) fn finished(&self, series: &Series, status: StatusCode) {
        if status == StatusCode::OK {
            series.answered_200.inc();
        } else {
            self.requests.get_or_create(&RequestLabels::new(&series.labels, status)).inc();
        }
    }

    /// `code`: of an [`Error`], or what broke a response off.
    pub(crate) fn failed(&self, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { code }).inc();
    }

    pub(crate) fn stream_error(&self, labels: &ModelLabels) {
        self.stream_errors.get_or_create(labels).inc();
    }

    pub(crate) fn picked(&self, pool: &Arc<str>, result: PickResult) {
        if result == PickResult::Picked
            && let Some(counter) = self.picked.read().unwrap_or_else(PoisonError::into_inner).get(&**pool)
        {
            counter.inc();
            return;
        }
        let counter = self.picks.get_or_create_owned(&PickLabels { pool: pool.clone(), result });
        counter.inc();
        if result == PickResult::Picked {
            self.picked.write().unwrap_or_else(PoisonError::into_inner).insert(pool.clone(), counter);
        }
    }

    pub(crate) fn mirrored(&self, result: MirrorResult) {
        self.mirrors.get_or_create(&MirrorLabels { result }).inc();
    }

    pub(crate) fn picker_failed_response(&self, outcome: PickerFaultOutcome) {
        self.picker_response_faults.get_or_create(&PickerFaultLabels { outcome }).inc();
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        self.retries.get_or_create(&RetryLabels { reason }).inc();
    }
}

fn doubling(first: f64, count: u16) -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(first, 2.0, count)
}
