//! Cost of the store: resident memory per 1,000 pods, and time from a write to the API server to the snapshot.
//! Skipped without a kube-apiserver.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it prints what it measures, or cannot go on")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_apiserver::ApiServer;
use forebay_resources::{
    Kind, ObjectKey, Pod, Store,
    cluster::{self, Interest, Selection},
};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

const PODS: usize = 5_000;
const WRITERS: usize = 16;
const WRITES: usize = 200;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let Some(server) = ApiServer::start().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "bench" } })).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    make_pods(&client).await;

    let store = Store::new();
    let before = resident_bytes();
    let began = Instant::now();
    let kinds = [Kind::Pod, Kind::ConfigMap].map(|kind| Selection::in_namespace(kind, "bench"));
    let interest = Interest::new(move |_| kinds.clone().into());
    let _provider = cluster::start(client.clone(), interest, Arc::clone(&store));
    store.loaded().await;
    let took = began.elapsed();
    let pods = store.snapshot().pods.len();
    assert_eq!(pods, PODS);
    let kept = (resident_bytes() - before) / 1024 * 1000 / pods as i64;
    println!(
        "first snapshot of {pods} pods: {:.0} ms, {kept} KiB resident for each 1,000 pods",
        millis(took)
    );

    let maps = Api::<ConfigMap>::namespaced(client, "bench");
    let mut times: Vec<Duration> = Vec::new();
    for number in 0..WRITES {
        let name = format!("m-{number}");
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "k": "v" } });
        let mut generations = store.subscribe();
        let key = ObjectKey::new("bench", &name);
        let began = Instant::now();
        let seen = async {
            generations.wait_for(|_| store.snapshot().config_maps.contains_key(&key)).await.unwrap();
            began.elapsed()
        };
        let params = PatchParams::apply("bench");
        let patch = Patch::Apply(&map);
        let (seen, written) = tokio::join!(seen, maps.patch(&name, &params, &patch));
        written.unwrap();
        times.push(seen);
    }
    times.sort();
    let at = |share: f64| millis(times[((times.len() - 1) as f64 * share) as usize]);
    println!(
        "from write to snapshot with {pods} pods: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn make_pods(client: &Client) {
    let api = &Api::<Pod>::namespaced(client.clone(), "bench");
    let began = Instant::now();
    stream::iter(0..PODS)
        .for_each_concurrent(WRITERS, async |number| {
            let pod = json!({
                "metadata": {
                    "name": format!("vllm-{number}"),
                    "labels": {
                        "app": format!("model-{}", number % 50),
                        "app.kubernetes.io/name": "vllm",
                        "pod-template-hash": "6d4cf56db6",
                    },
                    "annotations": { "example.com/notes": "x".repeat(500) },
                },
                "spec": {
                    "nodeName": format!("node-{}", number % 200),
                    "containers": [{
                        "name": "vllm", "image": "vllm/vllm-openai:latest",
                        "args": ["serve", "some/model", "--port=8000"], "ports": [{ "containerPort": 8000 }],
                        "env": (0..20).map(|it| json!({ "name": format!("VARIABLE_{it}"), "value": "value" })).collect::<Vec<_>>(),
                    }],
                },
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            api.create(&PostParams::default(), &pod).await.unwrap();
        })
        .await;
    println!("{PODS} pods written in {:.0} ms", millis(began.elapsed()));
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// From `/proc/self/statm`.
fn resident_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
