//! JSON for programs: stable names, units in names, `null` for unknown values.

use std::time::Duration;

use forebay_telemetry::{
    Bucket,
    signals::{LATENCIES, SIGNALS, Source, Value as Measured},
    v1::{Endpoint, Gpu, GpuHealth, Histogram, Latency, Liveness},
};
use serde_json::{Map, Value, json};

use crate::{
    Subject,
    sort::by_field,
    view::{Agent, View},
};

/// Version of the documents.
pub(crate) const API_VERSION: &str = "forebay.dev/v1alpha1";

pub(crate) fn render(subject: Subject, view: &View, sort: Option<&str>) -> anyhow::Result<Value> {
    let (kind, items): (&str, Vec<Value>) = match subject {
        Subject::Nodes => ("NodeList", view.nodes().map(node).collect()),
        Subject::Pods => ("PodList", view.pods().map(|(agent, endpoint)| pod(agent, endpoint)).collect()),
        Subject::Gpus => ("GpuList", view.gpus().map(|(agent, it)| gpu(agent, it)).collect()),
    };
    let items = by_field(items, sort, Value::clone)?;
    Ok(json!({ "apiVersion": API_VERSION, "kind": kind, "items": items }))
}

pub(crate) fn node(agent: &Agent) -> Value {
    let known = agent.has_answered();
    json!({
        "name": known.then_some(&agent.node.name),
        "agent": agent.name,
        "agentVersion": known.then_some(&agent.node.agent_version),
        "endpoints": known.then_some(agent.replica.endpoints().len()),
        "gpus": known.then_some(agent.replica.gpus().len()),
        "kernelOff": agent.node.kernel_off,
        "gpuOff": agent.node.gpu_off,
    })
}

pub(crate) fn pod(agent: &Agent, endpoint: &Endpoint) -> Value {
    let key = endpoint.key.clone().unwrap_or_default();
    json!({
        "namespace": key.namespace,
        "name": key.pod,
        "uid": key.uid,
        "node": agent.node.name,
        "ip": key.ip,
        "port": key.port,
        "kernel": endpoint.kernel.as_ref().map(|_| kernel(agent, endpoint)),
        "kernelOff": endpoint.kernel_off,
        "engine": endpoint.engine.as_ref().map(|_| engine(endpoint, agent.engine_age(endpoint))),
        "engineOff": endpoint.engine_off,
        "liveness": endpoint.liveness.as_ref().and_then(|it| liveness(agent, it)),
        "gpuUuids": endpoint.gpu_uuids,
    })
}

fn liveness(agent: &Agent, liveness: &Liveness) -> Option<Value> {
    let state = liveness.state_name()?;
    Some(json!({
        "state": state,
        "reason": liveness.reason_name(),
        "message": liveness.explanation(),
        "seconds": agent.age(liveness.since_boottime_ns).map(|age| age.as_secs_f64()),
    }))
}

/// All signals of a source.
fn signals(endpoint: &Endpoint, source: Source, age: Option<Duration>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("ageSeconds".into(), json!(age.map(|age| age.as_secs_f64())));
    for signal in SIGNALS.iter().filter(|signal| signal.source == source) {
        let value = match (signal.value)(endpoint) {
            Some(Measured::Integer(value)) => json!(value),
            Some(Measured::Flag(value)) => json!(value),
            Some(value) => json!(value.as_f64()),
            None => Value::Null,
        };
        object.insert(signal.json.into(), value);
    }
    object
}

fn kernel(agent: &Agent, endpoint: &Endpoint) -> Value {
    let mut object = signals(endpoint, Source::Kernel, agent.kernel_age(endpoint));
    let latencies = agent.replica.latencies(endpoint);
    for signal in LATENCIES {
        let histogram = latencies.and_then(signal.histogram);
        let value = (signal.value)(endpoint).and_then(|summary| latency(&summary, histogram));
        object.insert(signal.json.into(), json!(value));
    }
    object.into()
}

fn engine(endpoint: &Endpoint, age: Option<Duration>) -> Value {
    let mut object = signals(endpoint, Source::Engine, age);
    let models = endpoint.engine.iter().flat_map(|load| &load.models);
    let models: Vec<Value> = models.map(|model| json!({ "id": model.id, "parent": model.parent })).collect();
    object.insert("models".into(), models.into());
    object.into()
}

fn latency(latency: &Latency, histogram: Option<&Histogram>) -> Option<Value> {
    let seconds = |value_ns: u64| value_ns as f64 / 1e9;
    (latency.count != 0).then(|| {
        json!({
            "count": latency.count,
            "sumSeconds": seconds(latency.sum_ns),
            "p50Seconds": seconds(latency.p50_ns),
            "p95Seconds": seconds(latency.p95_ns),
            "p99Seconds": seconds(latency.p99_ns),
            "buckets": histogram.map(buckets),
        })
    })
}

fn buckets(histogram: &Histogram) -> Vec<Value> {
    let bucket = |it: Bucket| json!({ "fromSeconds": it.from.as_secs_f64(), "toSeconds": it.to.as_secs_f64(), "count": it.count });
    histogram.buckets().map(bucket).collect()
}

pub(crate) fn gpu(agent: &Agent, gpu: &Gpu) -> Value {
    let health = match gpu.health() {
        GpuHealth::Unspecified => None,
        GpuHealth::Ok => Some("ok"),
        GpuHealth::Degraded => Some("degraded"),
        GpuHealth::Lost => Some("lost"),
    };
    let mut document = gpu_values(gpu);
    document["node"] = json!(agent.node.name);
    document["ageSeconds"] = json!(agent.gpu_age(gpu).map(|age| age.as_secs_f64()));
    document["health"] = json!(health);
    document["healthReason"] = json!((!gpu.health_reason.is_empty()).then_some(&gpu.health_reason));
    document
}

/// What is measured of a GPU.
pub(crate) fn gpu_values(gpu: &Gpu) -> Value {
    json!({
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "utilizationPercent": gpu.utilization_percent,
        "memoryUsedBytes": gpu.memory_used_bytes,
        "memoryTotalBytes": gpu.memory_total_bytes,
        "temperatureCelsius": gpu.temperature_celsius,
        "powerMilliwatts": gpu.power_mw,
        "powerLimitMilliwatts": gpu.power_limit_mw,
        "smClockMhz": gpu.sm_clock_mhz,
        "smClockMaxMhz": gpu.sm_clock_max_mhz,
        "throttleReasons": gpu.throttle_reasons,
        "xidErrors": gpu.xid_errors,
        "lastXid": gpu.last_xid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fleet::scene::scene, json_schema::validate};

    #[test]
    fn documents_have_the_members_of_the_schema() {
        let scene = scene();
        for (subject, items) in [(Subject::Nodes, 2), (Subject::Pods, 4), (Subject::Gpus, 3)] {
            let document = render(subject, &scene.view, None).unwrap();
            assert_eq!(document["items"].as_array().unwrap().len(), items);
            assert_eq!(validate(&document), Ok(()), "{document:#}");
        }
        let mut changed = render(Subject::Pods, &scene.view, None).unwrap();
        let kernel = |pod: &str| {
            let pods = changed["items"].as_array().unwrap();
            pods.iter().find(|it| it["name"] == pod).unwrap()["kernel"].clone()
        };
        let buckets = kernel("qwen-0")["ttft"]["buckets"].clone();
        let counts: u64 = buckets.as_array().unwrap().iter().map(|it| it["count"].as_u64().unwrap()).sum();
        assert_eq!(kernel("qwen-0")["ttft"]["count"], counts);
        assert_eq!(kernel("mistral-0")["ttft"]["buckets"], Value::Null, "its agent does not send them");
        assert_eq!((&kernel("qwen-0")["waiting"], &kernel("qwen-1")["ttft"]), (&json!(2), &Value::Null));
        changed["items"][0]["kernel"]["later"] = json!(1);
        let why = validate(&changed).unwrap_err();
        assert!(why.starts_with("/items/0/kernel: "), "{why}");
    }
}
