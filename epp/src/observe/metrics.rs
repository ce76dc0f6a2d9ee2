//! Prometheus metrics. Label values come from fixed sets, or one each from the
//! agents that the store knows.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use forebay_resources::ObjectKey;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    Error,
    endpoints::{Endpoints, LoadSource},
    schedule::Pick,
};

const PICK_SECONDS: [f64; 10] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2];
const AGE_SECONDS: [f64; 16] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    /// `ok` or an [`Error::code`].
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    /// `2xx` and so on, `unknown` where the gateway told none.
    class: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    picks: Family<ResultLabel, Counter>,
    pick_duration: Histogram,
    load_age_at_pick: Histogram,
    responses: Family<CodeLabel, Counter>,
    open_streams: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        Self::with_registry(Registry::with_prefix("forebay_epp"))
    }

    /// With the label `pool`, for a process that has several.
    pub fn of_pool(pool: &ObjectKey) -> Arc<Self> {
        let labels = [("pool".into(), pool.to_string().into())].into_iter();
        Self::with_registry(Registry::with_prefix_and_labels("forebay_epp", labels))
    }

    fn with_registry(registry: Registry) -> Arc<Self> {
        let metrics = Self {
            registry: Mutex::new(registry),
            picks: Family::default(),
            pick_duration: Histogram::new(PICK_SECONDS),
            load_age_at_pick: Histogram::new(AGE_SECONDS),
            responses: Family::default(),
            open_streams: Gauge::default(),
        };
        let mut registry = metrics.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("picks", "Picks by result", metrics.picks.clone());
        registry.register("pick_duration_seconds", "Time to pick", metrics.pick_duration.clone());
        registry.register(
            "load_age_at_pick_seconds",
            "Age of a kernel-measured load when a pick first used it: its age when the agent sent it, and the time since it arrived",
            metrics.load_age_at_pick.clone(),
        );
        registry.register(
            "responses",
            "Responses that gateways reported, by class of status",
            metrics.responses.clone(),
        );
        registry.register("open_streams", "ext_proc streams open now", metrics.open_streams.clone());
        drop(registry);
        Arc::new(metrics)
    }

    /// Adds gauges of the endpoints and agents, read when they are asked for.
    pub(crate) fn watch(&self, endpoints: Arc<Endpoints>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(PoolGauges { endpoints }));
    }

    pub(crate) fn picked(&self, result: &Result<Pick, Error>, took: Duration) {
        let result = result.as_ref().map_or_else(Error::code, |_| "ok");
        self.picks.get_or_create(&ResultLabel { result }).inc();
        self.pick_duration.observe(took.as_secs_f64());
    }

    /// A request that was not even looked at.
    pub(crate) fn refused(&self, error: &Error) {
        self.picks.get_or_create(&ResultLabel { result: error.code() }).inc();
    }

    pub(crate) fn load_first_used(&self, age: Duration) {
        self.load_age_at_pick.observe(age.as_secs_f64());
    }

    pub(crate) fn responded(&self, status: Option<u16>) {
        let class = match status.map(|status| status / 100) {
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            _ => "unknown",
        };
        self.responses.get_or_create(&CodeLabel { class }).inc();
    }

    pub(crate) fn open_stream(&self) -> OpenStream {
        self.open_streams.inc();
        OpenStream(self.open_streams.clone())
    }

    /// In OpenMetrics text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

/// Counts a stream while it lives.
#[derive(Debug)]
pub(crate) struct OpenStream(Gauge<i64, AtomicI64>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Gauges that are made when they are read, so that nothing is left of an
/// endpoint or agent that is gone.
#[derive(Debug)]
struct PoolGauges {
    endpoints: Arc<Endpoints>,
}

impl Collector for PoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let endpoints = self.endpoints.endpoints();
        let help = "Endpoints by what their load is known from, or gpu_lost";
        let mut family = encoder.encode_descriptor("endpoints", help, None, MetricType::Gauge)?;
        for source in [LoadSource::Kernel, LoadSource::Engine, LoadSource::Local] {
            let count = endpoints.iter().filter(|view| !view.gpu_lost && view.source == source).count();
            gauge(count as i64).encode(family.encode_family(&[("state", source.name())])?)?;
        }
        let lost = endpoints.iter().filter(|view| view.gpu_lost).count();
        gauge(lost as i64).encode(family.encode_family(&[("state", "gpu_lost")])?)?;

        let agents = self.endpoints.agents();
        let labels = |address: String| [("agent", address)];
        let help = "Whether the stream from this agent is up";
        let mut family = encoder.encode_descriptor("agent_connected", help, None, MetricType::Gauge)?;
        for agent in &agents {
            let connected = gauge(agent.connected.into());
            connected.encode(family.encode_family(&labels(agent.address.to_string()))?)?;
        }
        let help = "Time since the newest frame of this agent";
        let mut family =
            encoder.encode_descriptor("agent_frame_age_seconds", help, None, MetricType::Gauge)?;
        for agent in &agents {
            if let Some(age) = agent.frame_age {
                let seconds: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
                seconds.set(age.as_secs_f64());
                seconds.encode(family.encode_family(&labels(agent.address.to_string()))?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: i64) -> Gauge<i64, AtomicI64> {
    let gauge: Gauge<i64, AtomicI64> = Gauge::default();
    gauge.inner().store(value, Ordering::Relaxed);
    gauge
}
