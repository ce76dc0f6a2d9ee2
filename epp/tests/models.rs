//! Picks among endpoints whose engines have different models.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    Harness, POOL,
    agent::{FakeAgent, engine},
    agent_ip,
    gateway::{Gateway, body, destination, headers_before_body},
    pod,
};
use forebay_epp::{
    config::{Config, Options},
    schedule::PickRequest,
};
use forebay_grpc::proto::processing_request::Request;
use forebay_telemetry::v1::{Adapters, Delta, Endpoint, Model};

/// A report of pod `n`, whose engine lists these models.
fn serving(n: u8, models: &[&str]) -> Endpoint {
    let mut endpoint = engine(n, 0, 0, 0);
    let model = |id: &&str| Model { id: (*id).to_owned(), ..Model::default() };
    endpoint.engine.as_mut().unwrap().models = models.iter().map(model).collect();
    endpoint
}

/// The endpoints of a decision for a request whose body names the model, or a header with `in_header`.
async fn picked(harness: &Harness, model: &str, in_header: bool) -> Vec<String> {
    let mut request = Gateway::connect(harness).await.open().await;
    let named = [("content-type", "application/json"), ("x-gateway-model-name", model)];
    request.send(headers_before_body(&named[..if in_header { 2 } else { 1 }])).await;
    let in_body = if in_header { "ignored" } else { model };
    let text = format!(r#"{{"model": "{in_body}", "messages": [{{"role": "user", "content": "Hello"}}]}}"#);
    request.send_message(Request::RequestBody(body(text, true))).await;
    let mut addresses = destination(&request.reply().await);
    addresses.sort();
    addresses
}

#[tokio::test]
async fn an_adapter_is_asked_for_only_where_it_is_listed() {
    let mut agent = FakeAgent::start(agent_ip(8), 0).await;
    let mut manifests =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    manifests.extend((1..=3).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
    let harness = Harness::start(&manifests, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = Duration::from_secs(60);
    })
    .await;
    let mut reports = agent.reader().await;
    let lists = [serving(1, &["base"]), serving(2, &["base", "lora"]), serving(3, &["base"])];
    reports.snapshot(lists.to_vec(), vec![]);
    harness.until("the lists are in", |all| all.iter().all(|view| view.engine_running.is_some())).await;
    let all = ["127.0.1.1:8000", "127.0.1.2:8000", "127.0.1.3:8000"];
    for in_header in [false, true] {
        assert_eq!(picked(&harness, "lora", in_header).await, ["127.0.1.2:8000"], "in header: {in_header}");
        assert_eq!(picked(&harness, "base", in_header).await, all);
        assert_eq!(picked(&harness, "unknown", in_header).await, all, "any engine can refuse it");
    }

    // Another engine loads the adapter.
    reports.delta(Delta { endpoints: vec![serving(3, &["base", "lora"])], ..Delta::default() });
    tokio::time::timeout(common::DEADLINE, async {
        while picked(&harness, "lora", false).await != all[1..] {}
    })
    .await
    .unwrap();

    // Without an engine that lists it, each may be asked.
    harness.remove("pod-2.yaml");
    harness.remove("pod-3.yaml");
    harness.until("the pods are gone", |endpoints| endpoints.len() == 1).await;
    assert_eq!(picked(&harness, "lora", false).await, all[..1]);
}

#[tokio::test]
async fn requests_for_an_adapter_stay_where_it_ran_last() {
    let mut agent = FakeAgent::start(agent_ip(9), 0).await;
    let mut manifests =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    manifests.extend((1..=3).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
    let document = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: lora-affinity-scorer\n\
                    - type: max-score-picker\n  parameters: {maxNumOfEndpoints: 1}\n";
    let pipeline = Arc::new(Config::parse(document, Options::default()).unwrap().pipeline);
    let harness = Harness::start(&manifests, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = Duration::from_secs(60);
        options.picker.pipelines = pipeline.into();
    })
    .await;
    let mut reports = agent.reader().await;
    // Both adapters are listed everywhere: loaded into memory, but not into the slots of a batch.
    let with_adapters = |n: u8, running: &[&str], measured: u64| {
        let mut endpoint = serving(n, &[]);
        let engine = endpoint.engine.as_mut().unwrap();
        engine.measured_boottime_ns += measured;
        engine.running = running.len() as u32;
        engine.models = ["sql", "chat"]
            .map(|id| Model { id: id.into(), parent: Some("base".into()), ..Model::default() })
            .to_vec();
        let running = running.iter().map(|it| (*it).to_owned()).collect();
        engine.adapters = Some(Adapters { running, slots: 1, ..Adapters::default() });
        endpoint
    };
    reports.snapshot(
        vec![with_adapters(1, &["chat"], 0), with_adapters(2, &["sql"], 0), with_adapters(3, &["chat"], 0)],
        vec![],
    );
    harness.until("the lists are in", |all| all.iter().all(|view| view.engine_running == Some(1))).await;
    let scores = || {
        let request = PickRequest { model: Some("sql"), ..PickRequest::default() };
        let mut endpoints = harness.scheduler().explain(&request).unwrap().endpoints;
        endpoints.sort_by_key(|it| it.address);
        endpoints.iter().map(|it| it.scores[0]).collect::<Vec<_>>()
    };
    assert_eq!(scores(), [0.0, 1.0, 0.0]);
    // The requests ended. The engines no longer list the adapters, and still have them in their slots.
    let idle = (1..=3).map(|n| with_adapters(n, &[], 1)).collect();
    reports.delta(Delta { endpoints: idle, ..Delta::default() });
    harness
        .until("the requests have ended", |all| all.iter().all(|view| view.engine_running == Some(0)))
        .await;
    assert_eq!(scores(), [0.8, 1.0, 0.8]);
    assert_eq!(picked(&harness, "sql", false).await, ["127.0.1.2:8000"]);
}
