//! Kernel programs, agent, pickers, gateway and client together.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints its measurements and fails by panicking"
)]

use std::{collections::BTreeMap, process::Command, time::Duration};

use forebay_e2e::{
    TIMEOUT, eventually,
    harness::{self, Harness, HarnessOptions, QWEN, TINYLLAMA},
    load::{self, Client, Mix},
    within,
};
use serde_json::Value;

fn mix(requests: u32, users: u32) -> Mix {
    Mix {
        requests,
        aborts: requests / 12,
        whole: requests / 30,
        refused: requests / 30,
        long_prompts: 4,
        long_prompt_bytes: 2 << 20,
        tokens: 16,
        users,
        models: vec![QWEN.into(), TINYLLAMA.into(), QWEN.into()],
        time_limit: Duration::from_secs(60),
    }
}

/// Output of `forebay pods -o json`, by pod name.
fn pods(harness: &Harness) -> BTreeMap<String, Value> {
    let output = Command::new(harness.program("forebay"))
        .args(["pods", "-o", "json", "--agents", &harness.network.agent().to_string()])
        .args(harness.reader_flags())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| (item["name"].as_str().unwrap().to_owned(), item.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_three_requests_of_the_guide() {
    let harness = Harness::start(HarnessOptions::default()).unwrap();
    let mut client = Client::new(harness.network.gateway());
    let ask = |model: &str, text: &str| {
        format!(
            r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "{text}"}}], "max_tokens": 3}}"#
        )
    };
    let chat = "/v1/chat/completions";
    for model in [QWEN, TINYLLAMA] {
        let response = client.post_json(chat, &ask(model, "Hello")).await.unwrap();
        assert_eq!(response.status, 200, "{}", response.body);
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["model"], model);
    }
    let response = client.post_json(chat, &ask("nonexistent", "Should fail")).await.unwrap();
    assert_eq!(response.status, 404);
    let body: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(body["error"]["code"], "model_not_found");

    let models: Value = harness::get_json(harness.network.gateway(), "/v1/models").unwrap();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [QWEN, TINYLLAMA]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_reports_what_the_pods_served() {
    let harness = Harness::start(HarnessOptions::default()).unwrap();
    let ledger = load::run(harness.network.gateway(), &mix(360, 16)).await;
    assert_eq!(ledger.failed, Vec::<String>::new());

    let mut served = 0;
    for pod in &harness.pods {
        let truth: forebay_sim::TruthCounters = harness::get_json(pod.truth.unwrap(), "/").unwrap();
        assert!(truth.started > 0, "{} got no requests", pod.name);
        served += truth.started;
        if !harness.unavailable.is_empty() {
            continue;
        }
        // The last counts and the agent's log: without them a difference cannot be explained afterwards.
        let mut last = String::new();
        let agrees = within(TIMEOUT, || {
            let reported = &pods(&harness)[&pod.name]["kernel"];
            let truth: forebay_sim::TruthCounters = harness::get_json(pod.truth.unwrap(), "/").unwrap();
            last = format!("{}: agent {reported}, engine {truth:?}", pod.name);
            truth.in_flight == 0
                && reported["inFlight"] == truth.in_flight
                && reported["started"] == truth.started
                && reported["finished"] == truth.finished
                && reported["aborted"] == truth.aborted
                && reported["responses4xx"] == truth.responses_4xx
        });
        assert!(agrees, "{last}\n{}", harness.agent.log_tail());
    }
    assert_eq!(served, 360);
    for reason in &harness.unavailable {
        println!("skipped: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_agent_is_killed() {
    let mut harness = Harness::start(HarnessOptions::default()).unwrap();
    let address = harness.network.gateway();
    let running = tokio::spawn(async move { load::run(address, &mix(300, 12)).await });
    let served = |harness: &Harness| -> u64 {
        harness
            .pods
            .iter()
            .map(|pod| {
                harness::get_json::<forebay_sim::TruthCounters>(pod.truth.unwrap(), "/").unwrap().finished
            })
            .sum()
    };
    tokio::task::block_in_place(|| {
        eventually("the load is running", || served(&harness) > 30);
        harness.agent.kill();
        let before = served(&harness);
        eventually("requests are served without the agent", || served(&harness) > before + 60);
    });
    tokio::task::block_in_place(|| harness.restart_agent()).unwrap();
    let ledger = running.await.unwrap();
    assert_eq!(ledger.failed, Vec::<String>::new());

    if harness.unavailable.is_empty() {
        // The pinned programs counted while no agent was running.
        for pod in &harness.pods {
            eventually("the new agent reports all requests", || {
                let reported = &pods(&harness)[&pod.name]["kernel"];
                let truth: forebay_sim::TruthCounters = harness::get_json(pod.truth.unwrap(), "/").unwrap();
                reported["started"] == truth.started
                    && reported["inFlight"] == 0
                    && reported["aborted"] == truth.aborted
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_pod_ends_only_its_own_streams() {
    let mut harness = Harness::start(HarnessOptions::default()).unwrap();
    let address = harness.network.gateway();
    let truth = |harness: &Harness, pod: usize| -> forebay_sim::TruthCounters {
        harness::get_json(harness.pods[pod].truth.unwrap(), "/").unwrap()
    };
    // More streams until both pods have some: where each goes is for the picker to decide. They last much longer than that.
    let mut streams = Vec::new();
    tokio::task::block_in_place(|| {
        eventually("all streams are running, on both pods", || {
            let [first, second] = [0, 1].map(|pod| truth(&harness, pod));
            println!("{} streams: {first:?}, {second:?}", streams.len());
            let are_spread = first.in_flight >= 2 && second.in_flight >= 2 && second.tokens > 0;
            if !are_spread && streams.len() < 32 {
                streams.push(tokio::spawn(async move {
                    Client::new(address).chat(QWEN, &load::Shape::Stream { tokens: 1_500 }).await
                }));
            }
            are_spread && first.in_flight + second.in_flight == streams.len() as u64
        });
    });
    let on_second = truth(&harness, 1).in_flight;
    let on_first = streams.len() as u64 - on_second;
    harness.pods[1].process.kill();
    let mut whole = 0;
    let mut broken = 0;
    // Immediately: the pod is still Ready in its manifest, so the gateway uses the fallback endpoint.
    let mut client = Client::new(address);
    for _ in 0..10 {
        let outcome = client.chat(QWEN, &load::Shape::Stream { tokens: 2 }).await.unwrap();
        assert_eq!((outcome.status, outcome.done), (200, true));
    }
    for stream in streams {
        match stream.await.unwrap() {
            Ok(outcome) if outcome.done => whole += 1,
            _ => broken += 1,
        }
    }
    assert_eq!((whole, broken), (on_first, on_second), "only the streams of the killed pod end");

    // A pod that is not Ready is not picked.
    let manifest = harness.resources().join("pods.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let (before, after) = text.split_once(&format!("name: {}", harness.pods[1].name)).unwrap();
    let after = after.replacen("status: \"True\"", "status: \"False\"", 1);
    std::fs::write(&manifest, format!("{before}name: {}{after}", harness.pods[1].name)).unwrap();
    let epp = std::net::SocketAddr::new(harness.epps[0].ip, 9090);
    tokio::task::block_in_place(|| {
        eventually("the picker has removed the pod", || {
            let (_, text) = harness::get(epp, "/endpoints").unwrap();
            !text.contains(&harness.pods[1].address.to_string())
        });
    });
    for _ in 0..10 {
        let outcome = client.chat(QWEN, &load::Shape::Stream { tokens: 2 }).await.unwrap();
        assert_eq!((outcome.status, outcome.done), (200, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_conflicting_duplicate_model_before_the_pod_gets_the_body() {
    let harness = Harness::start(HarnessOptions::default()).unwrap();
    let mut client = Client::new(harness.network.gateway());
    let filler = "x".repeat(300_000);
    let json = format!(
        r#"{{"model":"{QWEN}","messages":[{{"role":"user","content":"{filler}"}}],"model":"{TINYLLAMA}"}}"#
    );
    let response = client.post_json("/v1/chat/completions", &json).await.unwrap();
    assert_eq!(response.status, 400, "{}", response.body);
    for pod in &harness.pods {
        let truth: forebay_sim::TruthCounters = harness::get_json(pod.truth.unwrap(), "/").unwrap();
        assert_eq!((truth.finished, truth.tokens), (0, 0), "{} received the request", pod.name);
    }
}

#[test]
fn runs_without_kernel_measurement_and_reports_it() {
    let harness = Harness::start(HarnessOptions { kernel: false, ..HarnessOptions::default() }).unwrap();
    let output = Command::new(harness.program("forebay"))
        .args(["nodes", "--agents", &harness.network.agent().to_string()])
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("off: disabled"), "{table}");
    let pods = pods(&harness);
    assert!(pods.values().all(|pod| pod["kernel"].is_null()), "unknown is not zero");
    eventually("scraping works", || self::pods(&harness).values().all(|pod| pod["engine"]["running"] == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_rejects_clients_without_certificate() {
    let harness = Harness::start(HarnessOptions { mutual_tls: true, ..HarnessOptions::default() }).unwrap();
    let mut client = Client::new(harness.network.gateway());
    let body = format!(r#"{{"model": "{QWEN}", "prompt": "a", "max_tokens": 3}}"#);
    let response = client.post_json("/v1/completions", &body).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.contains(QWEN));
    eventually("the pickers are connected to the agent", || {
        harness.epps.iter().all(|epp| {
            harness::get(std::net::SocketAddr::new(epp.ip, 9090), "/metrics").is_ok_and(|(_, text)| {
                text.lines().any(|line| line.contains("agent_connected{") && line.ends_with(" 1"))
            })
        })
    });
    assert_eq!(pods(&harness).len(), 3);
    let plain = Command::new(harness.program("forebay"))
        .args(["pods", "--agents", &harness.network.agent().to_string()])
        .output()
        .unwrap();
    assert_eq!(plain.status.code(), Some(1), "without a certificate");
}

/// The value of a metric of the gateway with these labels. 0 if it does not exist.
fn gateway_metric(harness: &Harness, name: &str, label: &str) -> f64 {
    let (_, text) = harness::get(harness.network.gateway_admin(), "/metrics").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// A frozen replica keeps its connections open and does not reply. The pool must not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_picker_replica_is_failed_over_and_returns() {
    let options = HarnessOptions {
        kernel: false,
        picker_replicas: 2,
        failure_mode: "FailClose",
        ..HarnessOptions::default()
    };
    let harness = Harness::start(options).unwrap();
    let body = format!(r#"{{"model": "{QWEN}", "prompt": "a", "max_tokens": 2}}"#);
    let frozen = &harness.epps[0];
    let streams = |ip| {
        let (_, text) = harness::get(std::net::SocketAddr::new(ip, 9090), "/metrics").unwrap();
        let picks = text.lines().filter(|line| line.starts_with("forebay_epp_picks_total"));
        picks.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let mut client = Client::new(harness.network.gateway());
    for _ in 0..8 {
        assert_eq!(client.post_json("/v1/completions", &body).await.unwrap().status, 200);
    }
    let before = streams(frozen.ip);
    assert!(before > 0.0, "both replicas are asked");
    frozen.process.freeze().unwrap();
    let all = (0..40).map(|_| async {
        let mut client = Client::new(harness.network.gateway());
        client.post_json("/v1/completions", &body).await.unwrap().status
    });
    let statuses = futures_util::future::join_all(all).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(gateway_metric(&harness, "forebay_gateway_retries_total", "picker_unreachable") > 0.0);
    frozen.process.thaw().unwrap();
    // One request at a time probes the replica.
    let deadline = tokio::time::Instant::now() + 2 * TIMEOUT;
    while streams(frozen.ip) <= before {
        assert!(tokio::time::Instant::now() < deadline, "the replica is asked again");
        assert_eq!(client.post_json("/v1/completions", &body).await.unwrap().status, 200);
    }
}
