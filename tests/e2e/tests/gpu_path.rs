//! A GPU fault reaches the picker.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and fails by panicking"
)]

use std::process::Command;

use aya::maps::{Array, Map, MapData};
use forebay_agent_ebpf::maps::{self, GpuSample, SCHEMA, gpu_field};
use forebay_e2e::{
    eventually,
    harness::{GpuFault, Harness, HarnessOptions, QWEN},
    load::{Client, Shape},
};
use serde_json::Value;

fn gpus(harness: &Harness) -> Vec<Value> {
    let output = Command::new(harness.program("forebay"))
        .args(["gpus", "-o", "json", "--agents", &harness.network.agent().to_string()])
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_with_lost_gpu_gets_no_requests() {
    let harness = Harness::start(HarnessOptions { gpus: true, ..HarnessOptions::default() }).unwrap();
    eventually("all GPUs are reported", || gpus(&harness).len() == 3);
    let first = &gpus(&harness)[0];
    assert_eq!((&first["health"], &first["powerMilliwatts"]), (&"ok".into(), &400_000.into()));

    if harness.unavailable.is_empty() {
        let pin = harness.pins().join(format!("v{SCHEMA}")).join(maps::GPUS.spec.name);
        let map: Array<MapData, GpuSample> = Map::Array(MapData::from_pin(&pin).unwrap()).try_into().unwrap();
        let sample = map.get(&1, 0).unwrap();
        assert_eq!((sample.utilization_percent, sample.memory_total_bytes), (41, 80 << 30));
        assert!(sample.present & gpu_field::POWER != 0 && sample.measured_ns != 0);
    } else {
        println!("skipped: BPF maps are not pinned ({})", harness.unavailable.join("; "));
    }

    let served = |pod: usize| harness.pods[pod].truth().unwrap().started;
    let address = harness.network.gateway();
    // All at one time: one after the other may all go to one pod, which has their prompt cached.
    let streams: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move { Client::new(address).chat(QWEN, &Shape::Stream { tokens: 100 }).await })
        })
        .collect();
    for stream in streams {
        assert!(stream.await.unwrap().unwrap().done);
    }
    assert!(served(0) > 0 && served(1) > 0, "both healthy pods serve requests");

    harness.break_gpu(0, GpuFault::Xid(79)).unwrap();
    eventually("the agent reports the lost GPU", || gpus(&harness)[0]["health"] == "lost");
    let epp = std::net::SocketAddr::new(harness.epps[0].ip, 9090);
    if !harness.unavailable.is_empty() {
        // Without cgroups the agent cannot attribute GPUs to pods.
        return println!("skipped: GPUs cannot be attributed to pods ({})", harness.unavailable.join("; "));
    }
    eventually("the picker reports the lost GPU", || {
        let endpoints: Value = forebay_e2e::harness::get_json(epp, "/endpoints").unwrap();
        let lost =
            |it: &Value| it["address"] == harness.pods[0].address.to_string() && it["gpu_lost"] == true;
        endpoints["endpoints"].as_array().unwrap().iter().any(lost)
    });
    let before = served(0);
    let mut client = Client::new(address);
    for _ in 0..20 {
        assert!(client.chat(QWEN, &Shape::Stream { tokens: 1 }).await.unwrap().done);
    }
    assert_eq!(served(0), before, "the pod is no longer picked");
}
