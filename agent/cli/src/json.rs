//! JSON for programs: stable names, units in names, `null` for what is unknown.

use std::time::Duration;

use forebay_telemetry::v1::{Endpoint, EngineLoad, Gpu, GpuHealth, KernelLoad, Latency};
use serde_json::{Value, json};

use crate::{
    Subject,
    view::{Agent, View},
};

/// Names the shape of the documents.
pub(crate) const API_VERSION: &str = "forebay.dev/v1alpha1";

pub(crate) fn render(subject: Subject, view: &View) -> Value {
    let (kind, items): (&str, Vec<Value>) = match subject {
        Subject::Nodes => ("NodeList", view.agents.iter().map(node).collect()),
        Subject::Pods => (
            "PodList",
            view.agents.iter().flat_map(|agent| agent.endpoints.values().map(|it| pod(agent, it))).collect(),
        ),
        Subject::Gpus => (
            "GpuList",
            view.agents.iter().flat_map(|agent| agent.gpus.values().map(|it| gpu(agent, it))).collect(),
        ),
    };
    json!({ "apiVersion": API_VERSION, "kind": kind, "items": items })
}

fn node(agent: &Agent) -> Value {
    let known = agent.has_answered();
    json!({
        "name": known.then_some(&agent.node.name),
        "agent": agent.name,
        "agentVersion": known.then_some(&agent.node.agent_version),
        "endpoints": known.then_some(agent.endpoints.len()),
        "gpus": known.then_some(agent.gpus.len()),
        "kernelOff": agent.node.kernel_off,
        "gpuOff": agent.node.gpu_off,
    })
}

fn pod(agent: &Agent, endpoint: &Endpoint) -> Value {
    let key = endpoint.key.clone().unwrap_or_default();
    json!({
        "namespace": key.namespace,
        "name": key.pod,
        "uid": key.uid,
        "node": agent.node.name,
        "ip": key.ip,
        "port": key.port,
        "kernel": endpoint.kernel.as_ref().map(|load| kernel(load, agent.kernel_age(endpoint))),
        "kernelOff": endpoint.kernel_off,
        "engine": endpoint.engine.as_ref().map(|load| engine(load, agent.engine_age(endpoint))),
        "engineOff": endpoint.engine_off,
        "gpuUuids": endpoint.gpu_uuids,
    })
}

fn kernel(load: &KernelLoad, age: Option<Duration>) -> Value {
    json!({
        "ageSeconds": age.map(|age| age.as_secs_f64()),
        "inFlight": load.in_flight,
        "started": load.started,
        "finished": load.finished,
        "aborted": load.aborted,
        "otherRequests": load.other_requests,
        "responses2xx": load.responses_2xx,
        "responses4xx": load.responses_4xx,
        "responses5xx": load.responses_5xx,
        "bytesIn": load.bytes_in,
        "bytesOut": load.bytes_out,
        "chunks": load.chunks,
        "opaqueConnections": load.opaque_connections,
        "ttft": load.ttft.as_ref().and_then(latency),
        "itl": load.itl.as_ref().and_then(latency),
        "duration": load.duration.as_ref().and_then(latency),
    })
}

fn latency(latency: &Latency) -> Option<Value> {
    let seconds = |value_ns: u64| value_ns as f64 / 1e9;
    (latency.count != 0).then(|| {
        json!({
            "count": latency.count,
            "sumSeconds": seconds(latency.sum_ns),
            "p50Seconds": seconds(latency.p50_ns),
            "p95Seconds": seconds(latency.p95_ns),
            "p99Seconds": seconds(latency.p99_ns),
        })
    })
}

fn engine(load: &EngineLoad, age: Option<Duration>) -> Value {
    json!({
        "ageSeconds": age.map(|age| age.as_secs_f64()),
        "running": load.running,
        "waiting": load.waiting,
        "kvCacheUsage": load.kv_cache_usage,
        "promptTokens": load.prompt_tokens,
        "generationTokens": load.generation_tokens,
        "prefixCacheQueries": load.prefix_cache_queries,
        "prefixCacheHits": load.prefix_cache_hits,
        "preemptions": load.preemptions,
        "requestsSucceeded": load.requests_succeeded,
        "blockSizeTokens": load.block_size_tokens,
        "numGpuBlocks": load.num_gpu_blocks,
        "models": load.models.iter().map(|model| json!({ "id": model.id, "parent": model.parent })).collect::<Vec<_>>(),
    })
}

fn gpu(agent: &Agent, gpu: &Gpu) -> Value {
    let health = match gpu.health() {
        GpuHealth::Unspecified => None,
        GpuHealth::Ok => Some("ok"),
        GpuHealth::Degraded => Some("degraded"),
        GpuHealth::Lost => Some("lost"),
    };
    json!({
        "node": agent.node.name,
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "ageSeconds": agent.gpu_age(gpu).map(|age| age.as_secs_f64()),
        "health": health,
        "healthReason": (!gpu.health_reason.is_empty()).then_some(&gpu.health_reason),
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
