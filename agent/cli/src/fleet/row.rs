//! One row per pod and port.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use forebay_telemetry::v1::{Endpoint, EndpointLatencies, Latency};

use super::{
    GpuKey, GpuRow, History, RowKey, Verdict,
    stale::{ENGINE_STALE, STALE},
    verdict::verdict,
};
use crate::view::{Agent, View};

/// A pod. Unknown values are `None`, never 0.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: RowKey,
    pub(crate) endpoint: Endpoint,
    pub(crate) namespace: String,
    /// With the namespace or the port where the fleet has several.
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) address: String,
    /// The first model that the engine serves and that is not an adapter.
    pub(crate) model: Option<String>,
    pub(crate) pools: Vec<String>,
    pub(crate) verdict: Verdict,
    pub(crate) kernel_age: Option<Duration>,
    pub(crate) engine_age: Option<Duration>,
    pub(crate) is_lost: bool,
    pub(crate) in_flight: Option<u64>,
    /// In flight, without content of the response.
    pub(crate) waiting: Option<u64>,
    pub(crate) oldest: Option<Duration>,
    pub(crate) ttft: Option<Latency>,
    pub(crate) itl: Option<Latency>,
    /// Distributions. `None`: the agent does not send them, or nothing was counted yet.
    pub(crate) latencies: Option<EndpointLatencies>,
    pub(crate) tokens_per_second: Option<f64>,
    /// Waiting in the engine.
    pub(crate) queue: Option<u64>,
    pub(crate) kv_usage: Option<f64>,
    pub(crate) prefix_hits: Option<f64>,
    pub(crate) in_flight_history: Vec<Option<f64>>,
    pub(crate) ttft_history: Vec<Option<f64>>,
    pub(crate) gpu_keys: Vec<GpuKey>,
    pub(crate) gpu: GpuSummary,
}

/// The GPUs of a pod as one: mean utilisation, sums of memory and power, the slowest clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct GpuSummary {
    pub(crate) utilization: Option<f64>,
    pub(crate) memory: Option<(u64, u64)>,
    pub(crate) power_mw: Option<u64>,
    pub(crate) clock_mhz: Option<u32>,
    pub(crate) throttled: Vec<String>,
    pub(crate) is_stale: bool,
}

impl Row {
    pub(crate) fn is_kernel_stale(&self) -> bool {
        self.is_lost || self.kernel_age.is_none_or(|age| age > STALE)
    }

    pub(crate) fn is_engine_stale(&self) -> bool {
        self.is_lost || self.engine_age.is_none_or(|age| age > ENGINE_STALE)
    }

    /// The name alone.
    pub(crate) fn key_name(&self) -> &str {
        &self.key.pod
    }

    /// Whether a source that measures the pod is silent.
    pub(crate) fn has_stale(&self) -> bool {
        (self.is_kernel_stale() && self.kernel_age.is_some())
            || (self.is_engine_stale() && self.engine_age.is_some())
    }

    /// The older of the two: a pod is as well known as its worst source.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.kernel_age.max(self.engine_age)
    }
}

pub(super) fn all(view: &View, gpus: &[GpuRow], history: &History, now: Instant) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, agent) in view.agents.iter().enumerate() {
        for endpoint in agent.replica.endpoints() {
            let Some(key) = &endpoint.key else { continue };
            if view.scope.has_pod(&agent.node.name, key) {
                let own =
                    gpus.iter().filter(|gpu| gpu.key.0 == at && endpoint.gpu_uuids.contains(&gpu.gpu.uuid));
                let mut row = row(agent, endpoint, RowKey::new(at, key), history, own, now);
                row.pools = view.scope.pools(key).to_vec();
                rows.push(row);
            }
        }
    }
    name(&mut rows);
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

fn row<'a>(
    agent: &Agent,
    endpoint: &Endpoint,
    key: RowKey,
    history: &History,
    gpus: impl Iterator<Item = &'a GpuRow> + Clone,
    now: Instant,
) -> Row {
    let kernel = endpoint.kernel.as_ref();
    let engine = endpoint.engine.as_ref();
    let kernel_age = agent.replica.kernel_age(endpoint, now);
    let engine_age = agent.replica.engine_age(endpoint, now);
    let known = |latency: &Latency| latency.count != 0;
    let models = engine.into_iter().flat_map(|load| &load.models);
    Row {
        namespace: key.namespace.clone(),
        pod: key.pod.clone(),
        node: agent.node.name.clone(),
        address: format!("{}:{}", key.ip, key.port),
        model: models.clone().find(|model| model.parent.is_none()).map(|model| model.id.clone()),
        pools: Vec::new(),
        verdict: verdict(
            agent,
            endpoint,
            gpus.clone(),
            kernel_age.min(engine_age).or(kernel_age).or(engine_age),
        ),
        kernel_age,
        engine_age,
        is_lost: agent.problem().is_some(),
        in_flight: kernel.map(|load| load.in_flight),
        waiting: kernel.and_then(|load| Some(load.in_flight.saturating_sub(load.requests_with_response?))),
        oldest: kernel.and_then(|load| {
            let arrived_ns = load.oldest_request_boottime_ns?;
            Some(Duration::from_nanos(load.measured_boottime_ns.saturating_sub(arrived_ns)))
        }),
        ttft: kernel.and_then(|load| load.ttft).filter(known),
        itl: kernel.and_then(|load| load.itl).filter(known),
        latencies: agent.replica.latencies(endpoint).cloned(),
        tokens_per_second: history.tokens_per_second(&key),
        queue: engine.map(|load| load.waiting.into()),
        kv_usage: engine.and_then(|load| load.kv_cache_usage),
        prefix_hits: history.prefix_hits(&key),
        in_flight_history: history.in_flight(&key),
        ttft_history: history.ttft(&key),
        gpu_keys: gpus.clone().map(|gpu| gpu.key.clone()).collect(),
        gpu: summary(gpus),
        endpoint: endpoint.clone(),
        key,
    }
}

/// A sum or mean is unknown if one of its parts is.
fn summary<'a>(gpus: impl Iterator<Item = &'a GpuRow> + Clone) -> GpuSummary {
    let count = gpus.clone().count();
    if count == 0 {
        return GpuSummary::default();
    }
    let all = gpus.clone().map(|row| &row.gpu);
    let utilization: Option<u64> = all.clone().map(|gpu| gpu.utilization_percent.map(u64::from)).sum();
    let used: Option<u64> = all.clone().map(|gpu| gpu.memory_used_bytes).sum();
    let total: Option<u64> = all.clone().map(|gpu| gpu.memory_total_bytes).sum();
    let clocks: Option<Vec<u32>> = all.clone().map(|gpu| gpu.sm_clock_mhz).collect();
    let mut throttled: Vec<String> = all.clone().flat_map(|gpu| gpu.throttle_reasons.clone()).collect();
    throttled.sort();
    throttled.dedup();
    GpuSummary {
        utilization: utilization.map(|sum| sum as f64 / 100.0 / count as f64),
        memory: used.zip(total),
        power_mw: all.map(|gpu| gpu.power_mw).sum(),
        clock_mhz: clocks.and_then(|clocks| clocks.into_iter().min()),
        throttled,
        is_stale: gpus.clone().any(|gpu| gpu.is_stale),
    }
}

/// Pods are named by what tells them apart.
fn name(rows: &mut [Row]) {
    let has_several = |value: fn(&Row) -> &str| {
        let mut values = rows.iter().map(value);
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let has_namespaces = has_several(|row| &row.namespace);
    let mut ports: HashMap<(usize, String), usize> = HashMap::new();
    for row in rows.iter() {
        *ports.entry((row.key.agent, row.key.uid.clone())).or_default() += 1;
    }
    for row in rows.iter_mut() {
        if has_namespaces {
            row.pod = format!("{}/{}", row.namespace, row.key.pod);
        }
        if ports.get(&(row.key.agent, row.key.uid.clone())).is_some_and(|ports| *ports > 1) {
            row.pod = format!("{}:{}", row.pod, row.key.port);
        }
    }
}
