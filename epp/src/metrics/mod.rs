//! Prometheus metrics. Label values come from fixed sets, from pools, or from the agents that the store knows.

mod ecosystem;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_resources::ObjectKey;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, TypedMetric, counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    agents::{AgentView, Agents},
    endpoints::{EndpointView, Endpoints, LoadSource, PrefixHits},
};

const PREFIX: &str = "forebay_epp";
/// From 100 us those of llm-d's picker.
const PICK_SECONDS: [f64; 16] =
    [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1];
const AGE_SECONDS: [f64; 16] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const BODY_SHARES: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0];
/// Values of the label `class`. `unknown`: the gateway reported no status.
const STATUS_CLASSES: [&str; 6] = ["unknown", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of all pools that a process picks for. Each pool has a label `pool`.
///
/// A pool's series end when its [`Metrics`] are dropped.
#[derive(Clone, Debug, Default)]
pub struct PoolMetrics {
    pools: Arc<Mutex<BTreeMap<Option<ObjectKey>, Weak<Metrics>>>>,
    agents: Arc<Mutex<Weak<Agents>>>,
}

impl PoolMetrics {
    /// Adds the metrics to `registry`: with the prefix `forebay_epp`, and under names of other pickers.
    pub fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(self.clone()));
        registry.register_collector(Box::new(ecosystem::Ecosystem(self.clone())));
    }

    /// New metrics of `pool`, with the label `pool` (`namespace/name`). They replace earlier ones of the same pool.
    pub fn for_pool(&self, pool: &ObjectKey) -> Arc<Metrics> {
        self.add(Some(pool.clone()))
    }

    /// New metrics of the only pool of the process, without the label `pool`.
    pub(crate) fn for_only_pool(&self) -> Arc<Metrics> {
        self.add(None)
    }

    /// New metrics of streams that are rejected before their pool is known. Their label `pool` is empty.
    pub(crate) fn for_no_pool(&self) -> Arc<Metrics> {
        self.add(Some(ObjectKey::default()))
    }

    /// Adds gauges of the agents. They are read when the metrics are encoded.
    pub fn watch_agents(&self, agents: &Arc<Agents>) {
        *lock(&self.agents) = Arc::downgrade(agents);
    }

    /// The metrics in OpenMetrics text format.
    ///
    /// # Errors
    ///
    /// None: a test encodes all.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn add(&self, pool: Option<ObjectKey>) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics {
            failed_picks: Mutex::default(),
            failed_attempts: Counter::default(),
            successful_picks: Counter::default(),
            pick_duration: Histogram::new(PICK_SECONDS),
            load_age_at_pick: Histogram::new(AGE_SECONDS),
            body_share_at_pick: Histogram::new(BODY_SHARES),
            responses: Default::default(),
            open_streams: Gauge::default(),
            endpoints: OnceLock::new(),
            pool: OnceLock::new(),
        });
        let mut pools = lock(&self.pools);
        pools.retain(|_, metrics| metrics.strong_count() > 0);
        pools.insert(pool, Arc::downgrade(&metrics));
        drop(pools);
        metrics
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The metrics of one pool.
#[derive(Debug)]
pub struct Metrics {
    /// By [`Error::code`](crate::Error::code).
    failed_picks: Mutex<BTreeMap<&'static str, Counter>>,
    /// Those of them in which endpoints were compared.
    failed_attempts: Counter,
    successful_picks: Counter,
    pick_duration: Histogram,
    load_age_at_pick: Histogram,
    body_share_at_pick: Histogram,
    /// By [`STATUS_CLASSES`].
    responses: [Counter; STATUS_CLASSES.len()],
    open_streams: Gauge<i64, AtomicI64>,
    endpoints: OnceLock<Arc<Endpoints>>,
    /// Of `endpoints`.
    pool: OnceLock<ObjectKey>,
}

impl Metrics {
    /// Metrics that are not published.
    pub fn new() -> Arc<Self> {
        PoolMetrics::default().for_only_pool()
    }

    /// Adds gauges of the endpoints of `pool`. They are read when the metrics are encoded.
    pub(crate) fn watch(&self, pool: ObjectKey, endpoints: Arc<Endpoints>) {
        self.endpoints.get_or_init(|| endpoints);
        self.pool.get_or_init(|| pool);
    }

    /// Counts a pick. `error_code` of a failed one.
    pub(crate) fn count_pick(&self, error_code: Option<&'static str>, took: Duration) {
        match error_code {
            None => {
                self.successful_picks.inc();
            }
            Some(code) => {
                self.failed_attempts.inc();
                self.count_rejected(code);
            }
        }
        self.pick_duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was rejected before a pick.
    pub(crate) fn count_rejected(&self, code: &'static str) {
        let mut failed = self.failed_picks.lock().unwrap_or_else(PoisonError::into_inner);
        failed.entry(code).or_default().inc();
    }

    /// Records the age of a kernel count when a pick first uses it.
    pub(crate) fn record_load_age(&self, age: Duration) {
        self.load_age_at_pick.observe(age.as_secs_f64());
    }

    /// Records the share of a request's body that was read when its pick was made.
    pub(crate) fn record_body_share(&self, share: f64) {
        self.body_share_at_pick.observe(share);
    }

    /// Counts a response that the gateway reported. `None` if it reported no status.
    pub(crate) fn count_response(&self, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100));
        self.responses.get(class).unwrap_or(&self.responses[0]).inc();
    }

    /// Counts an open ext_proc stream until the returned guard is dropped.
    pub(crate) fn open_stream(&self) -> OpenStream {
        self.open_streams.inc();
        OpenStream(self.open_streams.clone())
    }
}

/// Counts a stream until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Gauge<i64, AtomicI64>);

impl OpenStream {
    /// The pool of the stream is known now.
    pub(crate) fn move_to(&mut self, metrics: &Metrics) {
        *self = metrics.open_stream();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One pool while the metrics are encoded.
struct Pool {
    label: Option<String>,
    metrics: Arc<Metrics>,
}

/// One metric family while it is encoded. `None` after a series without labels, which must be the only one.
struct Family<'a>(Option<MetricEncoder<'a>>);

impl<'a> Family<'a> {
    fn new(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
        metric_type: MetricType,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, metric_type).map(|encoder| Self(Some(encoder)))
    }

    /// Encodes one series.
    fn add(&mut self, pool: &Pool, label: Option<(&str, &str)>, metric: &impl EncodeMetric) -> fmt::Result {
        let pool = pool.label.as_deref().map(|name| ("pool", name));
        let encoder = self.0.as_mut().ok_or(fmt::Error)?;
        match (pool, label) {
            (Some(pool), Some(label)) => metric.encode(encoder.encode_family(&[pool, label])?),
            (Some(label), None) | (None, Some(label)) => metric.encode(encoder.encode_family(&[label])?),
            (None, None) => metric.encode(self.0.take().ok_or(fmt::Error)?),
        }
    }
}

impl PoolMetrics {
    fn pools(&self) -> Vec<Pool> {
        let pools = lock(&self.pools);
        let pool = |(key, metrics): (&Option<ObjectKey>, &Weak<Metrics>)| {
            Some(Pool { label: key.as_ref().map(ToString::to_string), metrics: metrics.upgrade()? })
        };
        pools.iter().filter_map(pool).collect()
    }
}

impl Collector for PoolMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pools = self.pools();
        if pools.is_empty() {
            return Ok(());
        }
        encode_picks(&mut encoder, &pools)?;
        encode_endpoints(&mut encoder, &pools)?;
        encode_prefixes(&mut encoder, &pools)?;
        let agents = lock(&self.agents).upgrade();
        encode_agents(&mut encoder, &agents.map(|agents| agents.views()).unwrap_or_default())
    }
}

fn encode_picks(encoder: &mut DescriptorEncoder<'_>, pools: &[Pool]) -> fmt::Result {
    let mut family =
        Family::new(encoder, "picks", "Picks by result: ok, or the error code", Counter::<u64>::TYPE)?;
    for pool in pools {
        family.add(pool, Some(("result", "ok")), &pool.metrics.successful_picks)?;
        let failed = pool.metrics.failed_picks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (code, counter) in &failed {
            family.add(pool, Some(("result", code)), counter)?;
        }
    }
    let mut family = Family::new(encoder, "pick_duration_seconds", "Duration of a pick", Histogram::TYPE)?;
    for pool in pools {
        family.add(pool, None, &pool.metrics.pick_duration)?;
    }
    let help = "Age of a kernel-measured load when a pick first uses it: age when the agent sent it, plus time since it arrived";
    let mut family = Family::new(encoder, "load_age_at_pick_seconds", help, Histogram::TYPE)?;
    for pool in pools {
        family.add(pool, None, &pool.metrics.load_age_at_pick)?;
    }
    let help =
        "Share of the request's body that was read when the pick was made, of picks that read the prompt";
    let mut family = Family::new(encoder, "body_share_at_pick", help, Histogram::TYPE)?;
    for pool in pools {
        family.add(pool, None, &pool.metrics.body_share_at_pick)?;
    }
    let help = "Responses that gateways reported, by class of the status code";
    let mut family = Family::new(encoder, "responses", help, Counter::<u64>::TYPE)?;
    for pool in pools {
        for (class, counter) in STATUS_CLASSES.iter().zip(&pool.metrics.responses) {
            family.add(pool, Some(("class", class)), counter)?;
        }
    }
    let help = "Open ext_proc streams";
    let mut family = Family::new(encoder, "open_streams", help, MetricType::Gauge)?;
    for pool in pools {
        family.add(pool, None, &pool.metrics.open_streams)?;
    }
    Ok(())
}

fn encode_endpoints(encoder: &mut DescriptorEncoder<'_>, pools: &[Pool]) -> fmt::Result {
    let help = "Endpoints by source of their load (kernel, engine, local), or gpu_lost";
    let mut family = Family::new(encoder, "endpoints", help, MetricType::Gauge)?;
    for pool in pools {
        let Some(endpoints) = pool.metrics.endpoints.get() else { continue };
        let endpoints = endpoints.endpoints();
        for source in [LoadSource::Kernel, LoadSource::Engine, LoadSource::Local] {
            let count = endpoints.iter().filter(|view| !view.gpu_lost && view.source == source).count();
            family.add(pool, Some(("state", source.name())), &gauge(count as i64))?;
        }
        let lost = endpoints.iter().filter(|view| view.gpu_lost).count();
        family.add(pool, Some(("state", "gpu_lost")), &gauge(lost as i64))?;
    }
    let help = "Endpoints by the agent's verdict on their engine: alive, suspect, stalled, or unknown";
    let mut family = Family::new(encoder, "endpoint_liveness", help, MetricType::Gauge)?;
    for pool in pools {
        let Some(endpoints) = pool.metrics.endpoints.get() else { continue };
        let endpoints = endpoints.endpoints();
        for state in ["alive", "suspect", "stalled", "unknown"] {
            let of = |view: &EndpointView| view.liveness.and_then(|it| it.state_name()).unwrap_or("unknown");
            let count = endpoints.iter().filter(|view| of(view) == state).count();
            family.add(pool, Some(("state", state)), &gauge(count as i64))?;
        }
    }
    let help =
        "Own picks whose requests have not ended: waiting for the first byte of the response, or responding";
    let mut family = Family::new(encoder, "open_picks", help, MetricType::Gauge)?;
    for pool in pools {
        let Some(endpoints) = pool.metrics.endpoints.get() else { continue };
        let endpoints = endpoints.endpoints();
        let open: u64 = endpoints.iter().map(|view| view.open_picks).sum();
        let waiting: u64 = endpoints.iter().map(|view| view.waiting_picks).sum();
        family.add(pool, Some(("state", "waiting")), &gauge(waiting as i64))?;
        family.add(pool, Some(("state", "responding")), &gauge(open.saturating_sub(waiting) as i64))?;
    }
    Ok(())
}

/// One series per pod of a pool, so there are as many as members.
fn encode_prefixes(encoder: &mut DescriptorEncoder<'_>, pools: &[Pool]) -> fmt::Result {
    let by_pod: Vec<(&Pool, BTreeMap<String, Prefixes>)> =
        pools.iter().filter_map(|pool| Some((pool, prefixes(pool.metrics.endpoints.get()?)))).collect();
    let help = "Prefix cache hits that the prefix index expected at picks, in bytes of prompt";
    let mut family =
        Family::new(encoder, "prefix_hit_predicted_bytes", help, Counter::<f64, AtomicU64>::TYPE)?;
    for (pool, pods) in &by_pod {
        for (pod, prefixes) in pods {
            family.add(pool, Some(("pod", pod)), &counter(prefixes.hits.predicted_bytes))?;
        }
    }
    let help = "Prefix cache hits that the engine counted in the same time for all requests, in bytes of prompt (tokens times measured bytes per token)";
    let mut family =
        Family::new(encoder, "prefix_hit_measured_bytes", help, Counter::<f64, AtomicU64>::TYPE)?;
    for (pool, pods) in &by_pod {
        for (pod, prefixes) in pods {
            family.add(pool, Some(("pod", pod)), &counter(prefixes.hits.measured_bytes))?;
        }
    }
    let help = "Share of the expected prefix cache hits that picks count on, from measured hits; of the worst endpoint of the pod";
    let mut family = Family::new(encoder, "prefix_belief_ratio", help, MetricType::Gauge)?;
    for (pool, pods) in &by_pod {
        for (pod, prefixes) in pods {
            let belief: Gauge<f64, AtomicU64> = Gauge::default();
            belief.set(prefixes.belief);
            family.add(pool, Some(("pod", pod)), &belief)?;
        }
    }
    Ok(())
}

/// Of the endpoints of a pod.
struct Prefixes {
    hits: PrefixHits,
    belief: f64,
}

fn prefixes(endpoints: &Endpoints) -> BTreeMap<String, Prefixes> {
    let mut pods = BTreeMap::new();
    for view in endpoints.endpoints() {
        let pod: &mut Prefixes = pods
            .entry(view.endpoint.pod.to_string())
            .or_insert(Prefixes { hits: PrefixHits::default(), belief: 1.0 });
        pod.hits.predicted_bytes += view.prefix_hits.predicted_bytes;
        pod.hits.measured_bytes += view.prefix_hits.measured_bytes;
        pod.belief = pod.belief.min(view.prefix_belief);
    }
    pods
}

fn counter(value: f64) -> Counter<f64, AtomicU64> {
    let counter: Counter<f64, AtomicU64> = Counter::default();
    counter.inc_by(value);
    counter
}

/// Agents have no label `pool`: all pools of the process share their streams.
fn encode_agents(encoder: &mut DescriptorEncoder<'_>, agents: &[AgentView]) -> fmt::Result {
    let label = |agent: &AgentView| agent.address.to_string();
    let help = "1 if the telemetry stream of the agent is open, otherwise 0";
    let mut family = encoder.encode_descriptor("agent_connected", help, None, MetricType::Gauge)?;
    for agent in agents {
        let connected = gauge(agent.connected.into());
        connected.encode(family.encode_family(&[("agent", label(agent))])?)?;
    }
    let help = "Time since the newest frame of the agent";
    let mut family = encoder.encode_descriptor("agent_frame_age_seconds", help, None, MetricType::Gauge)?;
    for agent in agents {
        let Some(age) = agent.frame_age else { continue };
        let seconds: Gauge<f64, AtomicU64> = Gauge::default();
        seconds.set(age.as_secs_f64());
        seconds.encode(family.encode_family(&[("agent", label(agent))])?)?;
    }
    Ok(())
}

fn gauge(value: i64) -> Gauge<i64, AtomicI64> {
    let gauge: Gauge<i64, AtomicI64> = Gauge::default();
    gauge.inner().store(value, Ordering::Relaxed);
    gauge
}
