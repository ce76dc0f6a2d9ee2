//! Events for changes of conditions.

use std::net::Ipv4Addr;

use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Harness, has};

const API: &str = "gateway.networking.k8s.io/v1";
const POOLS: &str = "inference.networking.k8s.io/v1";
const POLICIES: &str = "agentgateway.dev/v1alpha1";

/// Type, reason and note of all Events about an object.
async fn events(harness: &Harness, namespace: &str, kind: &str, name: &str) -> Vec<(String, String, String)> {
    let list =
        harness.api("events.k8s.io/v1", "Event", namespace).list(&ListParams::default()).await.unwrap();
    let of_object =
        list.items.into_iter().map(|event| serde_json::to_value(event).unwrap()).filter(|event| {
            event["regarding"]["kind"] == kind
                && event["regarding"]["name"] == name
                && event["regarding"]["uid"].is_string()
                && event["reportingController"] == "forebay.dev/gateway"
        });
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    of_object.map(|event| (text(&event, "type"), text(&event, "reason"), text(&event, "note"))).collect()
}

/// Waits for an Event with this type and reason, and returns its note.
async fn until_event(
    harness: &Harness,
    (namespace, kind, name): (&str, &str, &str),
    wanted: (&str, &str),
) -> String {
    let found = async {
        loop {
            let all = events(harness, namespace, kind, name).await;
            if let Some((_, _, note)) = all.into_iter().find(|it| (it.0.as_str(), it.1.as_str()) == wanted) {
                return note;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("no Event {wanted:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_condition_is_one_event() {
    let Some(harness) = Harness::start().await else { return };
    harness.pool("qwen").await;
    harness.route("chat", "public", "qwen").await;
    harness.listen("public", 80).await;
    let gateway = harness.gateway("first", Ipv4Addr::new(127, 0, 42, 1)).await;

    let qwen = (POOLS, "InferencePool", "models", "qwen");
    let of_pool = |it: &Value| it["status"]["parents"][0]["conditions"].clone();
    let no_pods = "forebay.dev/NoReadyPods";
    harness.until(qwen, "the pool is served", |it| has(&of_pool(it), "Accepted", "True")).await;
    assert_eq!(events(&harness, "models", "InferencePool", "qwen").await, [], "nothing is wrong");

    // The pods of the pool are gone, and come back.
    harness
        .api("v1", "Pod", "models")
        .delete("qwen-0", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    harness.until(qwen, "the condition is set", |it| has(&of_pool(it), no_pods, "True")).await;
    let pool = ("models", "InferencePool", "qwen");
    let note = until_event(&harness, pool, ("Warning", "NoPods")).await;
    assert!(note.contains("selects no Pod: its selector is app=qwen in namespace models"), "{note}");
    harness.pool("qwen").await;
    harness.until(qwen, "the condition is removed", |it| !has(&of_pool(it), no_pods, "True")).await;
    until_event(&harness, pool, ("Normal", "Resolved")).await;

    // A policy that is not enforced.
    let policy = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "traffic": { "jwtAuthentication": { "mode": "Strict" } },
    } });
    harness.apply(POLICIES, "AgentgatewayPolicy", "infra", "jwt", policy).await;
    let note = until_event(&harness, ("infra", "AgentgatewayPolicy", "jwt"), ("Warning", "Invalid")).await;
    assert!(note.contains("traffic.jwtAuthentication: missing field `providers`"), "{note}");

    // Nothing is repeated by another writer: it compares with the statuses that are written.
    gateway.shutdown().await;
    let second = harness.gateway("second", Ipv4Addr::new(127, 0, 42, 2)).await;
    harness.listen("later", 81).await;
    let later = (API, "Gateway", "infra", "later");
    harness
        .until(later, "the second one writes", |it| has(&it["status"]["conditions"], "Accepted", "True"))
        .await;
    let reasons: Vec<String> =
        events(&harness, "models", "InferencePool", "qwen").await.into_iter().map(|it| it.1).collect();
    // The pod is created before its status is written, so there may be a moment in which it is not ready.
    let reasons: Vec<&str> =
        reasons.iter().map(String::as_str).filter(|reason| *reason != "PodsNotReady").collect();
    assert_eq!(reasons, ["NoPods", "Resolved"]);
    assert_eq!(events(&harness, "infra", "AgentgatewayPolicy", "jwt").await.len(), 1);
    second.shutdown().await;
}
