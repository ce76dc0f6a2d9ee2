//! The gateway with one picker process for two pools.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

use std::net::SocketAddr;

use forebay_e2e::{
    eventually,
    harness::{self, Harness, HarnessOptions, QWEN, TINYLLAMA},
    load::Client,
};
use serde_json::Value;

/// Requests of each model.
const REQUESTS: u64 = 6;

fn started(harness: &Harness, model: &str) -> u64 {
    let pods = harness.pods.iter().filter(|pod| pod.model == model);
    pods.map(|pod| harness::get_json::<forebay_sim::TruthCounters>(pod.truth.unwrap(), "/").unwrap().started)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_picker_serves_the_routes_of_two_pools() {
    let options = HarnessOptions {
        shared_picker: true,
        failure_mode: "FailClose",
        kernel: false,
        ..HarnessOptions::default()
    };
    let mut harness = Harness::start(options).unwrap();
    assert_eq!(harness.epps.len(), 1);
    let mut client = Client::new(harness.network.gateway());
    let ask = |model: &str| {
        format!(
            r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 3}}"#
        )
    };
    let path = "/v1/chat/completions";
    for _ in 0..REQUESTS {
        for model in [QWEN, TINYLLAMA] {
            let response = client.post_json(path, &ask(model)).await.unwrap();
            assert_eq!(response.status, 200, "{model}: {}", response.body);
            let body: Value = serde_json::from_str(&response.body).unwrap();
            assert_eq!(body["model"], model);
        }
    }
    let served = [QWEN, TINYLLAMA].map(|model| started(&harness, model));
    assert_eq!(served, [REQUESTS; 2], "each pool served its own model");

    let pages = SocketAddr::new(harness.epps[0].ip, 9090);
    let pools: Value = harness::get_json(pages, "/endpoints").unwrap();
    assert_eq!(pools["pools"].as_array().unwrap().len(), 2);
    for (pool, pods) in [("vllm-qwen3-06b", 2), ("vllm-tinyllama-11b", 1)] {
        let page: Value = harness::get_json(pages, &format!("/endpoints?pool=llm-d/{pool}")).unwrap();
        assert_eq!(page["endpoints"].as_array().unwrap().len(), pods, "{page:#}");
        let picks = format!("forebay_epp_picks_total{{pool=\"llm-d/{pool}\",result=\"ok\"}} {REQUESTS}");
        eventually("the picks of the pool", || harness::get(pages, "/metrics").unwrap().1.contains(&picks));
    }

    // Both pools fail closed, so it was this picker that chose.
    harness.epps[0].process.kill();
    for model in [QWEN, TINYLLAMA] {
        let response = client.post_json(path, &ask(model)).await.unwrap();
        assert_eq!(response.status, 503, "{model}: {}", response.body);
    }
}
