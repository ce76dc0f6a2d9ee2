//! What the page shows, as one JSON document. Units in names, `null` for unknown values, never 0.

use std::time::Duration;

use forebay_telemetry::{
    Bucket,
    v1::{Histogram, Latency},
};
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, GpuKey, GpuRow, Level, Row},
    json::{API_VERSION, gpu_values},
    requests::Recent,
};

/// `recent`: `None` in a recording. `gateway`: address of the one that prompts are sent to.
pub(super) fn document(fleet: &Fleet, recent: Option<&Recent>, gateway: Option<&str>) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Dashboard",
        "replay": fleet.replay,
        "gateway": gateway,
        "nodes": fleet.nodes,
        "notices": fleet.notices,
        "pods": fleet.rows.iter().map(pod).collect::<Vec<_>>(),
        "gpus": fleet.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "requests": recent.map(Recent::document),
    })
}

fn pod(row: &Row) -> Value {
    json!({
        "id": row.key.id(),
        "name": row.pod,
        "namespace": row.namespace,
        "node": row.node,
        "address": row.address,
        "model": row.model,
        "pools": row.pools,
        "verdict": {
            "level": level(row.verdict.level),
            "text": row.verdict.text,
            "reason": (!row.verdict.explanation.is_empty()).then_some(&row.verdict.explanation),
        },
        "lost": row.is_lost,
        "ageSeconds": seconds(row.age()),
        "stale": row.has_stale(),
        "kernel": {
            "ageSeconds": seconds(row.kernel_age),
            "stale": row.is_kernel_stale(),
            "off": row.endpoint.kernel_off,
            "inFlight": row.in_flight,
            "waiting": row.waiting,
            "oldestRequestSeconds": seconds(row.oldest),
            "ttft": row.ttft.map(|it| latency(it, row.latencies.as_ref().and_then(|all| all.ttft.as_ref()))),
            "itl": row.itl.map(|it| latency(it, row.latencies.as_ref().and_then(|all| all.itl.as_ref()))),
            "inFlightHistory": row.in_flight_history,
            "ttftP99SecondsHistory":
                row.ttft_history.iter().map(|value_ns| value_ns.map(|it| it / 1e9)).collect::<Vec<_>>(),
        },
        "engine": {
            "ageSeconds": seconds(row.engine_age),
            "stale": row.is_engine_stale(),
            "off": row.endpoint.engine_off,
            "running": row.endpoint.engine.as_ref().map(|load| load.running),
            "queue": row.queue,
            "tokensPerSecond": row.tokens_per_second,
            "kvCacheUsage": row.kv_usage,
            "prefixCacheHits": row.prefix_hits,
        },
        "gpu": {
            "stale": row.gpu.is_stale,
            "utilization": row.gpu.utilization,
            "memoryUsedBytes": row.gpu.memory.map(|(used, _)| used),
            "memoryTotalBytes": row.gpu.memory.map(|(_, total)| total),
            "powerMilliwatts": row.gpu.power_mw,
            "smClockMhz": row.gpu.clock_mhz,
            "throttleReasons": row.gpu.throttled,
        },
        "gpus": row.gpu_keys.iter().map(gpu_id).collect::<Vec<_>>(),
    })
}

fn gpu(row: &GpuRow) -> Value {
    let gpu = &row.gpu;
    let mut document = gpu_values(gpu);
    document["id"] = json!(gpu_id(&row.key));
    document["node"] = json!(row.node);
    document["level"] = json!(level(row.level));
    document["reason"] = json!((!gpu.health_reason.is_empty()).then_some(&gpu.health_reason));
    document["ageSeconds"] = json!(seconds(row.age));
    document["stale"] = json!(row.is_stale);
    document["lastXidAgeSeconds"] = json!(seconds(row.xid_age));
    document["pods"] = json!(row.pods);
    document
}

fn gpu_id((agent, uuid): &GpuKey) -> String {
    format!("{agent}/{uuid}")
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Unknown => "unknown",
        Level::Suspect => "suspect",
        Level::Failed => "failed",
    }
}

/// In milliseconds: no value is known more precisely.
fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| (duration.as_secs_f64() * 1e3).round() / 1e3)
}

fn latency(latency: Latency, histogram: Option<&Histogram>) -> Value {
    let seconds = |value_ns: u64| value_ns as f64 / 1e9;
    json!({
        "count": latency.count,
        "p50Seconds": seconds(latency.p50_ns),
        "p95Seconds": seconds(latency.p95_ns),
        "p99Seconds": seconds(latency.p99_ns),
        "buckets": histogram.map(buckets),
    })
}

/// Compact: a thousand pods have two of them each. No bound is known more precisely than a microsecond.
fn buckets(histogram: &Histogram) -> Value {
    let all: Vec<Bucket> = histogram.buckets().collect();
    let bounds = all.first().map(|it| it.from).into_iter().chain(all.iter().map(|it| it.to));
    let seconds = |bound: Duration| bound.as_micros() as f64 / 1e6;
    json!({
        "boundsSeconds": bounds.map(seconds).collect::<Vec<_>>(),
        "counts": all.iter().map(|it| it.count).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::fleet::scene::scene;

    fn find<'a>(document: &'a Value, pod: &str) -> &'a Value {
        document["pods"].as_array().unwrap().iter().find(|it| it["name"] == pod).unwrap()
    }

    #[test]
    fn has_what_top_shows_and_null_for_unknown() {
        let document = document(&scene().fleet(), None, Some("10.0.0.9:8080"));
        assert_eq!((&document["kind"], &document["gateway"]), (&json!("Dashboard"), &json!("10.0.0.9:8080")));
        assert_eq!(document["requests"], Value::Null);
        let busy = find(&document, "qwen-0");
        assert_eq!(busy["verdict"], json!({ "level": "ok", "text": "alive", "reason": null }));
        assert_eq!(busy["kernel"]["oldestRequestSeconds"], json!(4.16));
        assert_eq!(busy["kernel"]["ttft"]["p50Seconds"], json!(0.14));
        let itl = &busy["kernel"]["itl"]["buckets"];
        assert_eq!((&itl["boundsSeconds"][0], &itl["counts"][2]), (&json!(0.015), &json!(14_180)));
        assert_eq!(
            itl["boundsSeconds"].as_array().unwrap().len(),
            itl["counts"].as_array().unwrap().len() + 1
        );
        let slow = &find(&document, "mistral-0")["kernel"]["ttft"];
        assert_eq!((&slow["count"], &slow["buckets"]), (&json!(30), &Value::Null), "an agent without them");
        assert_eq!(
            (&busy["engine"]["tokensPerSecond"], &busy["engine"]["prefixCacheHits"]),
            (&json!(850.0), &json!(0.62))
        );
        assert_eq!(busy["kernel"]["inFlightHistory"].as_array().unwrap().len(), 30);
        assert_eq!(busy["gpus"], json!(["0/GPU-a0", "0/GPU-a1"]));
        assert_eq!(busy["gpu"]["powerMilliwatts"], 1_024_000);
        let unknown = find(&document, "qwen-2");
        for (source, name) in [
            ("kernel", "inFlight"),
            ("kernel", "waiting"),
            ("kernel", "ttft"),
            ("engine", "queue"),
            ("gpu", "utilization"),
        ] {
            assert_eq!(unknown[source][name], Value::Null, "{source} {name}");
        }
        assert_eq!(unknown["verdict"]["level"], "suspect");
        let throttled =
            document["gpus"].as_array().unwrap().iter().find(|it| it["id"] == "1/GPU-b0").unwrap();
        assert_eq!(
            (&throttled["level"], &throttled["throttleReasons"]),
            (&json!("suspect"), &json!(["hw_thermal_slowdown"]))
        );
    }

    #[test]
    fn values_of_a_lost_agent_are_old() {
        let mut scene = scene();
        scene.view.fail(0, "connection refused".into());
        let document = document(&scene.fleet(), None, None);
        let lost = find(&document, "qwen-0");
        assert_eq!((&lost["lost"], &lost["kernel"]["stale"]), (&json!(true), &json!(true)));
        assert_eq!(lost["verdict"]["text"], "unknown");
        assert!(document["notices"][0].as_str().unwrap().contains("lost"), "{document}");
    }
}
