use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use foldhash::HashMap;
use forebay_epp::PoolMetrics;
use forebay_openai::Usage;
use forebay_resources::ObjectKey;
use forebay_routing::{JwksId, Measure};
use forebay_usage::UsageLogMetrics;
use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::exemplars::{Durations, TraceLabels};
use super::gen_ai::{ErrorType, GenAiMetrics, GenAiSeries, Operation};
use super::labels::{
    ErrorLabels, KeySetLabels, LimitLabels, LoadResult, MirrorLabels, MirrorResult, ModelLabels, PickLabels,
    PickResult, PickerFailureLabels, PickerFailureOutcome, QuotaLabels, QuotaNameLabels, QuotaResult,
    RequestLabels, RetryLabels, RetryReason, TokenLabels,
};
use crate::limit::{LimitServerMetrics, QuotaExceeded, QuotaStoreMetrics, QuotaTaken};

/// Label value for models and pools that no resource names. Label values never come from clients.
pub(crate) const UNKNOWN: &str = "unknown";

type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;
type DurationHistograms = Family<ModelLabels, Durations, fn() -> Durations>;

/// The series of one model and pool. A request looks them up once.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: ModelLabels,
    pub(crate) time_to_first_token: Durations,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) upstream: Durations,
    status_200: Counter,
    prompt_tokens: Counter,
    completion_tokens: Counter,
    cached_tokens: Counter,
    reasoning_tokens: Counter,
    gen_ai: GenAiSeries,
}

/// All metrics of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) processing: Histogram,
    pub(crate) pick_duration: Histogram,
    pub(crate) access_log_dropped_lines: Counter,
    pub(crate) usage_log: UsageLogMetrics,
    pub(crate) quota_store: QuotaStoreMetrics,
    pub(crate) limit_servers: LimitServerMetrics,
    pub(crate) active_requests: Gauge,
    pub(crate) connections: ConnectionMetrics,
    pub(crate) hold_bytes: Gauge,
    /// Metrics of the in-process pickers.
    pub(crate) pickers: PoolMetrics,
    families: Families,
    gen_ai: GenAiMetrics,
    /// Counters of [`PickResult::Picked`] by pool, for the hot path.
    picked: RwLock<HashMap<Arc<str>, Counter>>,
    /// Bounded by the models and pools that resources name.
    series: RwLock<HashMap<ModelLabels, Arc<Series>>>,
    /// Series of requests whose model and pool are not known yet.
    unknown: OnceLock<Arc<Series>>,
}

/// Metrics of client connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionMetrics {
    /// Open connections.
    pub(crate) open: Gauge,
    /// Connections without a request that were closed for new ones.
    pub(crate) evicted: Counter,
    /// Response data that HTTP/2 clients have not taken.
    pub(crate) unsent_bytes: Gauge,
}

impl ConnectionMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("client_connections", "Open client connections", self.open.clone());
        registry.register(
            "client_connections_evicted",
            "Client connections without a request that were closed because new ones needed their place",
            self.evicted.clone(),
        );
        registry.register_with_unit(
            "client_unsent",
            "Bytes of responses on HTTP/2 connections that wait for their clients",
            Unit::Bytes,
            self.unsent_bytes.clone(),
        );
    }
}

#[derive(Debug)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    picks: Family<PickLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    mirrors: Family<MirrorLabels, Counter>,
    picker_response_failures: Family<PickerFailureLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    cached_tokens: Family<ModelLabels, Counter>,
    reasoning_tokens: Family<ModelLabels, Counter>,
    stream_errors: Family<ModelLabels, Counter>,
    rate_limited: Family<LimitLabels, Counter>,
    quota_requests: Family<QuotaLabels, Counter>,
    quota_shared_counters: Family<QuotaNameLabels, Counter>,
    key_set_loads: Family<KeySetLabels, Counter>,
    time_to_first_token: DurationHistograms,
    inter_token_latency: Histograms,
    upstream: DurationHistograms,
}

impl Families {
    fn new() -> Self {
        Self {
            requests: Family::default(),
            errors: Family::default(),
            picks: Family::default(),
            retries: Family::default(),
            mirrors: Family::default(),
            picker_response_failures: Family::default(),
            tokens: Family::default(),
            cached_tokens: Family::default(),
            reasoning_tokens: Family::default(),
            stream_errors: Family::default(),
            rate_limited: Family::default(),
            quota_requests: Family::default(),
            quota_shared_counters: Family::default(),
            key_set_loads: Family::default(),
            // 1 ms to 524 s. Includes the time that prefill is queued.
            time_to_first_token: Family::new_with_constructor(|| Durations::new(powers(1e-3, 20))),
            // 1 ms to 16 s.
            inter_token_latency: Family::new_with_constructor(|| doubling(1e-3, 15)),
            // 1 ms to 1049 s.
            upstream: Family::new_with_constructor(|| Durations::new(powers(1e-3, 21))),
        }
    }

    fn register_counters(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests by model, pool and status code. 499: the client closed the request",
            self.requests.clone(),
        );
        registry.register(
            "errors",
            "Requests without an engine response and aborted responses, by error code",
            self.errors.clone(),
        );
        registry.register("picks", "Endpoint picks by pool and result", self.picks.clone());
        registry.register("retries", "Retries by reason", self.retries.clone());
        registry.register("mirrors", "Mirrored requests by result", self.mirrors.clone());
        registry.register(
            "picker_response_failures",
            "Endpoint picker failures while a response body was relayed, by outcome of the response",
            self.picker_response_failures.clone(),
        );
        registry.register(
            "rate_limited",
            "Requests above a rate limit, by the policy (namespace/name) and what its limit counts",
            self.rate_limited.clone(),
        );
        registry.register(
            "quota_requests",
            "Requests to which a quota (namespace/name) applies, by result. warned: above a limit of a quota that only warns. \
             A request that a quota rejects is counted for this quota only",
            self.quota_requests.clone(),
        );
        registry.register(
            "quota_shared_counters",
            "Requests whose value of `per` shares counters, because the quota (namespace/name) has too many values in a window",
            self.quota_shared_counters.clone(),
        );
        registry.register(
            "key_set_loads",
            "Loads of JSON Web Key Sets from servers, by set (namespace/name:port/path of the Service) and result",
            self.key_set_loads.clone(),
        );
        registry.register("tokens", "Tokens that engines report in usage, by type", self.tokens.clone());
        registry.register(
            "cached_tokens",
            "Prompt tokens that were in the engine's prefix cache, as engines report in usage",
            self.cached_tokens.clone(),
        );
        registry.register(
            "reasoning_tokens",
            "Completion tokens that were reasoning, as engines report in usage",
            self.reasoning_tokens.clone(),
        );
        registry.register(
            "stream_errors",
            "Errors that engines reported inside a stream with status 200",
            self.stream_errors.clone(),
        );
    }

    fn register_histograms(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "time_to_first_token",
            "Time from the arrival of the request to the first event of a stream, or the first byte of another response body",
            Unit::Seconds,
            self.time_to_first_token.clone(),
        );
        registry.register_with_unit(
            "inter_token_latency",
            "Time between events of a stream. An event has one or a few tokens",
            Unit::Seconds,
            self.inter_token_latency.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "Time from sending the request to an endpoint to the end of the response",
            Unit::Seconds,
            self.upstream.clone(),
        );
    }
}

fn register_usage_log(registry: &mut Registry, log: &UsageLogMetrics) {
    registry.register(
        "usage_records",
        "Usage records that are stored in the usage database",
        log.written.clone(),
    );
    registry.register(
        "usage_records_dropped",
        "Usage records that were lost, because the usage database was not reachable for too long",
        log.dropped.clone(),
    );
    registry.register(
        "usage_database_failures",
        "Statements of the usage database that failed. They are tried again",
        log.failures.clone(),
    );
}

fn register_quota_store(registry: &mut Registry, store: &QuotaStoreMetrics) {
    registry.register(
        "quota_store_up",
        "1: the quota store answers. 0: it does not answer, or no store is configured",
        store.up.clone(),
    );
    registry.register(
        "quota_store_gateways",
        "Gateways that use the quota store, when it last answered",
        store.gateways.clone(),
    );
    registry.register(
        "quota_store_failures",
        "Losses of the quota store, and failed connects",
        store.failures.clone(),
    );
    registry.register(
        "quota_store_calls",
        "Sets of counters that were sent to the quota store. Requests that it has granted in advance need none",
        store.calls.clone(),
    );
}

impl Series {
    /// Records the end of a request, and the tokens that it used.
    pub(crate) fn ended(
        &self,
        path: &str,
        (took, trace): (Duration, Option<TraceLabels>),
        error: Option<ErrorType>,
        usage: Option<Usage>,
    ) {
        self.gen_ai.ended(Operation::of(path), (took, trace), error, usage);
        let Some(usage) = usage else { return };
        self.prompt_tokens.inc_by(usage.prompt_tokens.unwrap_or(0));
        self.completion_tokens.inc_by(usage.completion_tokens.unwrap_or(0));
        self.cached_tokens.inc_by(usage.cached_tokens.unwrap_or(0));
        self.reasoning_tokens.inc_by(usage.reasoning_tokens.unwrap_or(0));
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            // 20 us to 160 ms.
            processing: doubling(20e-6, 14),
            // 100 us to 3.3 s.
            pick_duration: doubling(100e-6, 16),
            access_log_dropped_lines: Counter::default(),
            usage_log: UsageLogMetrics::default(),
            quota_store: QuotaStoreMetrics::default(),
            limit_servers: LimitServerMetrics::default(),
            active_requests: Gauge::default(),
            connections: ConnectionMetrics::default(),
            hold_bytes: Gauge::default(),
            pickers: PoolMetrics::default(),
            families: Families::new(),
            gen_ai: GenAiMetrics::new(),
            picked: RwLock::default(),
            series: RwLock::default(),
            unknown: OnceLock::new(),
        };
        let mut registry = Registry::default();
        metrics.pickers.register(&mut registry);
        metrics.gen_ai.register(&mut registry);
        let own = registry.sub_registry_with_prefix("forebay_gateway");
        metrics.families.register_counters(own);
        metrics.families.register_histograms(own);
        metrics.register(own);
        metrics.registry = registry;
        metrics
    }

    /// All metrics of the process.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "processing_duration",
            "Time that the gateway itself adds before the request is sent: without waits for the client, the picker and connections",
            Unit::Seconds,
            self.processing.clone(),
        );
        registry.register_with_unit(
            "pick_duration",
            "Time until the picker's decision",
            Unit::Seconds,
            self.pick_duration.clone(),
        );
        registry.register(
            "access_log_dropped_lines",
            "Access log lines that were dropped because the reader was too slow",
            self.access_log_dropped_lines.clone(),
        );
        register_usage_log(registry, &self.usage_log);
        register_quota_store(registry, &self.quota_store);
        self.limit_servers.register(registry);
        registry.register("active_requests", "Requests in flight", self.active_requests.clone());
        self.connections.register(registry);
        registry.register_with_unit(
            "hold",
            "Bytes of request bodies that are held",
            Unit::Bytes,
            self.hold_bytes.clone(),
        );
    }

    /// The series of requests whose model and pool are not known. `label` is the value of both labels.
    pub(crate) fn unknown_series(&self, label: &Arc<str>) -> Arc<Series> {
        self.unknown.get_or_init(|| self.series(label, label)).clone()
    }

    pub(crate) fn series(&self, model: &Arc<str>, pool: &Arc<str>) -> Arc<Series> {
        let labels = ModelLabels { model: model.clone(), pool: pool.clone() };
        if let Some(known) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&labels) {
            return known.clone();
        }
        let families = &self.families;
        let tokens = |r#type| {
            let labels = TokenLabels { model: model.clone(), pool: pool.clone(), r#type };
            families.tokens.get_or_create_owned(&labels)
        };
        let status_200 = RequestLabels::new(&labels, StatusCode::OK);
        let series = Arc::new(Series {
            time_to_first_token: families.time_to_first_token.get_or_create_owned(&labels),
            inter_token_latency: families.inter_token_latency.get_or_create_owned(&labels),
            upstream: families.upstream.get_or_create_owned(&labels),
            status_200: families.requests.get_or_create_owned(&status_200),
            prompt_tokens: tokens("prompt"),
            completion_tokens: tokens("completion"),
            cached_tokens: families.cached_tokens.get_or_create_owned(&labels),
            reasoning_tokens: families.reasoning_tokens.get_or_create_owned(&labels),
            gen_ai: self.gen_ai.of(model),
            labels: labels.clone(),
        });
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(labels).or_insert(series).clone()
    }

    pub(crate) fn finished(&self, series: &Series, status: StatusCode) {
        if status == StatusCode::OK {
            series.status_200.inc();
        } else {
            self.families.requests.get_or_create(&RequestLabels::new(&series.labels, status)).inc();
        }
    }

    /// `code`: the error code of the request or of the aborted response.
    pub(crate) fn failed(&self, code: &'static str) {
        self.families.errors.get_or_create(&ErrorLabels { code }).inc();
    }

    /// `measure`: of the limit of the policy that is reached.
    pub(crate) fn rate_limited(&self, policy: &ObjectKey, measure: Measure) {
        let labels = LimitLabels { policy: policy.to_string(), measure: measure.name() };
        self.families.rate_limited.get_or_create(&labels).inc();
    }

    /// A quota has counted a request.
    pub(crate) fn quota_taken(&self, taken: &QuotaTaken) {
        if taken.is_above() || taken.is_crowded_out() {
            let result = if taken.is_above() { QuotaResult::Warned } else { QuotaResult::Admitted };
            return self.quota(taken.quota(), result, taken.is_crowded_out());
        }
        taken.count_admitted(|| {
            let labels = QuotaLabels { quota: taken.quota().to_string(), result: QuotaResult::Admitted };
            self.families.quota_requests.get_or_create_owned(&labels)
        });
    }

    pub(crate) fn quota_rejected(&self, exceeded: &QuotaExceeded) {
        self.quota(&exceeded.quota, QuotaResult::Rejected, exceeded.is_crowded_out);
    }

    fn quota(&self, quota: &ObjectKey, result: QuotaResult, is_crowded_out: bool) {
        let quota = quota.to_string();
        if is_crowded_out {
            let labels = QuotaNameLabels { quota: quota.clone() };
            self.families.quota_shared_counters.get_or_create(&labels).inc();
        }
        self.families.quota_requests.get_or_create(&QuotaLabels { quota, result }).inc();
    }

    /// No quota has the name any more.
    pub(crate) fn quota_forgotten(&self, quota: &ObjectKey) {
        let quota = quota.to_string();
        for result in [QuotaResult::Admitted, QuotaResult::Warned, QuotaResult::Rejected] {
            self.families.quota_requests.remove(&QuotaLabels { quota: quota.clone(), result });
        }
        self.families.quota_shared_counters.remove(&QuotaNameLabels { quota });
    }

    pub(crate) fn key_set_loaded(&self, id: &JwksId, is_loaded: bool) {
        let result = if is_loaded { LoadResult::Loaded } else { LoadResult::Failed };
        let labels = KeySetLabels { key_set: id.to_string(), result };
        self.families.key_set_loads.get_or_create(&labels).inc();
    }

    /// No policy names the set any more.
    pub(crate) fn key_set_forgotten(&self, id: &JwksId) {
        for result in [LoadResult::Loaded, LoadResult::Failed] {
            self.families.key_set_loads.remove(&KeySetLabels { key_set: id.to_string(), result });
        }
    }

    pub(crate) fn stream_error(&self, labels: &ModelLabels) {
        self.families.stream_errors.get_or_create(labels).inc();
    }

    pub(crate) fn picked(&self, pool: &Arc<str>, result: PickResult) {
        if result == PickResult::Picked
            && let Some(counter) = self.picked.read().unwrap_or_else(PoisonError::into_inner).get(&**pool)
        {
            counter.inc();
            return;
        }
        let counter = self.families.picks.get_or_create_owned(&PickLabels { pool: pool.clone(), result });
        counter.inc();
        if result == PickResult::Picked {
            self.picked.write().unwrap_or_else(PoisonError::into_inner).insert(pool.clone(), counter);
        }
    }

    pub(crate) fn mirrored(&self, result: MirrorResult) {
        self.families.mirrors.get_or_create(&MirrorLabels { result }).inc();
    }

    pub(crate) fn picker_response_failed(&self, outcome: PickerFailureOutcome) {
        self.families.picker_response_failures.get_or_create(&PickerFailureLabels { outcome }).inc();
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        self.families.retries.get_or_create(&RetryLabels { reason }).inc();
    }
}

/// A histogram with `count` buckets. The upper bound of the first is `first`, and each further one is twice as large.
fn doubling(first: f64, count: u16) -> Histogram {
    Histogram::new(powers(first, count))
}

fn powers(first: f64, count: u16) -> impl Iterator<Item = f64> {
    exponential_buckets(first, 2.0, count)
}
