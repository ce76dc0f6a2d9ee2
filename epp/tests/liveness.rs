//! Picks by the agent's verdict on engines, over real telemetry streams.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::time::Duration;

use common::{
    Harness, POOL,
    agent::{FakeAgent, Reader, kernel},
    agent_ip,
    gateway::Gateway,
    pod,
};
use forebay_telemetry::v1::{Delta, Endpoint, Liveness, LivenessReason, LivenessState};

async fn harness_with_agent(pods: u8) -> (Harness, FakeAgent, Reader) {
    let mut agent = FakeAgent::start(agent_ip(7), 0).await;
    let mut manifests =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    manifests.extend((1..=pods).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
    let harness = Harness::start(&manifests, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = Duration::from_secs(60);
    })
    .await;
    let reader = agent.reader().await;
    (harness, agent, reader)
}

/// A report of pod `n` with a verdict.
fn judged(n: u8, in_flight: u64, state: LivenessState, reason: LivenessReason) -> Endpoint {
    let liveness = Liveness { state: state.into(), reason: reason.into(), since_boottime_ns: 1 };
    Endpoint { liveness: Some(liveness), ..kernel(n, in_flight, in_flight) }
}

fn alive(n: u8, in_flight: u64) -> Endpoint {
    judged(n, in_flight, LivenessState::Alive, LivenessReason::Unspecified)
}

async fn until_state(harness: &Harness, n: u8, state: LivenessState) {
    harness.until_endpoint(n, "the verdict is in", |view| view.is(state)).await;
}

async fn picked(harness: &Harness, picks: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..picks {
        let (_stream, mut picked) = Gateway::connect(harness).await.pick().await;
        all.push(picked.swap_remove(0));
    }
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn a_stalled_engine_gets_nothing_while_another_works_and_returns_when_it_is_alive() {
    let (harness, _agent, mut agent) = harness_with_agent(2).await;
    let stalled = judged(1, 0, LivenessState::Stalled, LivenessReason::ResponsesSilent);
    agent.snapshot(vec![stalled.clone(), alive(2, 50)], vec![]);
    until_state(&harness, 1, LivenessState::Stalled).await;
    let (_stream, addresses) = Gateway::connect(&harness).await.pick().await;
    assert_eq!(addresses, ["127.0.1.2:8000"], "not even as a fallback");
    let (_, page) = harness.get("/endpoints").await;
    assert!(page.contains("\"reason\": \"responses_silent\""), "{page}");
    assert!(page.contains("\"avoided_because\": \"responses have begun, and the engine"), "{page}");
    assert_eq!(harness.metric(r#"forebay_epp_endpoint_liveness{state="stalled"}"#).await, 1.0);

    let both_stall = Endpoint { key: alive(2, 50).key, ..stalled.clone() };
    agent.delta(Delta { endpoints: vec![both_stall], ..Delta::default() });
    until_state(&harness, 2, LivenessState::Stalled).await;
    assert_eq!(Gateway::connect(&harness).await.pick().await.1.len(), 2, "the pool never becomes empty");

    agent.delta(Delta { endpoints: vec![alive(1, 0)], ..Delta::default() });
    until_state(&harness, 1, LivenessState::Alive).await;
    assert_eq!(picked(&harness, 3).await, ["127.0.1.1:8000"]);
}

#[tokio::test]
async fn a_suspect_engine_is_preferred_less_but_stays_a_member() {
    let (harness, _agent, mut agent) = harness_with_agent(2).await;
    let suspect = judged(1, 0, LivenessState::Suspect, LivenessReason::NotScraped);
    agent.snapshot(vec![suspect.clone(), alive(2, 3)], vec![]);
    until_state(&harness, 1, LivenessState::Suspect).await;
    assert_eq!(picked(&harness, 6).await, ["127.0.1.2:8000"]);
    let (_stream, addresses) = Gateway::connect(&harness).await.pick().await;
    assert_eq!(addresses, ["127.0.1.2:8000", "127.0.1.1:8000"], "still a fallback");

    agent.delta(Delta { endpoints: vec![alive(2, 5000)], ..Delta::default() });
    harness.until_endpoint(2, "the load is in", |view| view.kernel_in_flight == Some(5000)).await;
    assert_eq!(picked(&harness, 1).await, ["127.0.1.1:8000"], "better than a long wait");
}

#[tokio::test]
async fn an_agent_without_a_verdict_changes_nothing() {
    let (harness, _agent, mut agent) = harness_with_agent(2).await;
    let stalled = judged(1, 0, LivenessState::Stalled, LivenessReason::NoProgress);
    agent.snapshot(vec![stalled, alive(2, 9)], vec![]);
    until_state(&harness, 1, LivenessState::Stalled).await;
    let silent = Endpoint { liveness: None, ..kernel(1, 0, 0) };
    agent.delta(Delta { endpoints: vec![silent], ..Delta::default() });
    harness.until_endpoint(1, "an older agent has no verdict", |view| view.liveness.is_none()).await;
    assert_eq!(picked(&harness, 3).await, ["127.0.1.1:8000"]);
}
