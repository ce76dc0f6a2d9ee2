//! Prometheus metrics. Label values come from fixed sets, from pools, or from the agents that the store knows.

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

use crate::endpoints::{Endpoints, LoadSource};

const PREFIX: &str = "forebay_epp";
const PICK_SECONDS: [f64; 10] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2];
const AGE_SECONDS: [f64; 16] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const BODY_SHARES: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0];
/// Values of the label `class`. `unknown`: the gateway reported no status.
const STATUS_CLASSES: [&str; 6] = ["unknown", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of all pools that a process picks for. Each pool has a label `pool`.
///
/// A pool's series end when its [`Metrics`] are dropped.
#[derive(Clone, Debug, Default)]
pub struct PoolMetrics(Arc<Mutex<BTreeMap<Option<ObjectKey>, Weak<Metrics>>>>);

impl PoolMetrics {
    /// Adds the metrics to `registry`, with the prefix `forebay_epp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(self.clone()));
    }

    /// New metrics of `pool`, with the label `pool` (`namespace/name`). They replace earlier ones of the same pool.
    pub fn for_pool(&self, pool: &ObjectKey) -> Arc<Metrics> {
        self.add(Some(pool.clone()))
    }

    fn add(&self, pool: Option<ObjectKey>) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics {
            failed_picks: Mutex::default(),
            successful_picks: Counter::default(),
            pick_duration: Histogram::new(PICK_SECONDS),
            load_age_at_pick: Histogram::new(AGE_SECONDS),
            body_share_at_pick: Histogram::new(BODY_SHARES),
            responses: Default::default(),
            open_streams: Gauge::default(),
            endpoints: OnceLock::new(),
            own: OnceLock::new(),
        });
        let mut pools = self.lock();
        pools.retain(|_, metrics| metrics.strong_count() > 0);
        pools.insert(pool, Arc::downgrade(&metrics));
        drop(pools);
        metrics
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<ObjectKey>, Weak<Metrics>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The metrics of one pool.
#[derive(Debug)]
pub struct Metrics {
    /// By [`Error::code`](crate::Error::code).
    failed_picks: Mutex<BTreeMap<&'static str, Counter>>,
    successful_picks: Counter,
    pick_duration: Histogram,
    load_age_at_pick: Histogram,
    body_share_at_pick: Histogram,
    /// By [`STATUS_CLASSES`].
    responses: [Counter; STATUS_CLASSES.len()],
    open_streams: Gauge<i64, AtomicI64>,
    endpoints: OnceLock<Arc<Endpoints>>,
    /// The registry of a process with a single pool.
    own: OnceLock<Registry>,
}

impl Metrics {
    /// Metrics of a process that picks for a single pool. They have no label `pool`. [`Metrics::text`] encodes them.
    pub fn new() -> Arc<Self> {
        let pools = PoolMetrics::default();
        let metrics = pools.add(None);
        let mut registry = Registry::default();
        pools.register(&mut registry);
        metrics.own.get_or_init(|| registry);
        metrics
    }

    /// Adds gauges of the endpoints and agents. They are read when the metrics are encoded.
    pub(crate) fn watch(&self, endpoints: Arc<Endpoints>) {
        self.endpoints.get_or_init(|| endpoints);
    }

    /// Counts a pick. `error_code` of a failed one.
    pub(crate) fn count_pick(&self, error_code: Option<&'static str>, took: Duration) {
        match error_code {
            None => {
                self.successful_picks.inc();
            }
            Some(code) => self.count_rejected(code),
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

    /// The metrics in OpenMetrics text format. Empty for metrics that [`PoolMetrics::for_pool`] made.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        if let Some(registry) = self.own.get() {
            encode(&mut text, registry)?;
        }
        Ok(text)
    }
}

/// Counts a stream until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Gauge<i64, AtomicI64>);

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

impl Collector for PoolMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pools: Vec<Pool> = self
            .lock()
            .iter()
            .filter_map(|(key, metrics)| {
                Some(Pool { label: key.as_ref().map(ToString::to_string), metrics: metrics.upgrade()? })
            })
            .collect();
        if pools.is_empty() {
            return Ok(());
        }
        encode_picks(&mut encoder, &pools)?;
        encode_endpoints(&mut encoder, &pools)?;
        encode_agents(&mut encoder, &pools)
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
            if counter.get() > 0 {
                family.add(pool, Some(("class", class)), counter)?;
            }
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

fn encode_agents(encoder: &mut DescriptorEncoder<'_>, pools: &[Pool]) -> fmt::Result {
    let help = "1 if the telemetry stream of the agent is open, otherwise 0";
    let mut family = Family::new(encoder, "agent_connected", help, MetricType::Gauge)?;
    for pool in pools {
        let Some(endpoints) = pool.metrics.endpoints.get() else { continue };
        for agent in &endpoints.agents() {
            let address = agent.address.to_string();
            family.add(pool, Some(("agent", &address)), &gauge(agent.connected.into()))?;
        }
    }
    let help = "Time since the newest frame of the agent";
    let mut family = Family::new(encoder, "agent_frame_age_seconds", help, MetricType::Gauge)?;
    for pool in pools {
        let Some(endpoints) = pool.metrics.endpoints.get() else { continue };
        for agent in &endpoints.agents() {
            let Some(age) = agent.frame_age else { continue };
            let seconds: Gauge<f64, AtomicU64> = Gauge::default();
            seconds.set(age.as_secs_f64());
            family.add(pool, Some(("agent", &agent.address.to_string())), &seconds)?;
        }
    }
    Ok(())
}

fn gauge(value: i64) -> Gauge<i64, AtomicI64> {
    let gauge: Gauge<i64, AtomicI64> = Gauge::default();
    gauge.inner().store(value, Ordering::Relaxed);
    gauge
}
