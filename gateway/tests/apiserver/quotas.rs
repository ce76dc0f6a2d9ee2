//! Quotas: what the API server refuses, and the status of those that it accepts.

use std::net::Ipv4Addr;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{Harness, condition, has};

const API: &str = "forebay.dev/v1alpha1";
const OURS: &str = "forebay.dev/gateway";

fn spec(changes: Value) -> Value {
    let mut spec = json!({
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "limits": [{ "requests": 10, "window": "Minute" }],
    });
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_refuses_what_the_gateway_would_not_enforce() {
    let Some(harness) = Harness::start().await else { return };
    let api = harness.api(API, "Quota", "infra");
    let refusal = async |changes: Value| {
        let object = json!({ "apiVersion": API, "kind": "Quota", "metadata": { "name": "bad" }, "spec": spec(changes) });
        let params =
            PatchParams { field_manager: Some("test".into()), force: true, ..PatchParams::default() };
        api.patch("bad", &params, &Patch::Apply(&object)).await.err().map(|error| error.to_string())
    };
    let limits = |limit: Value| json!({ "limits": [limit] });
    for (changes, expected) in [
        (json!({ "limits": [] }), "spec.limits"),
        (limits(json!({ "window": "Day" })), "exactly one of requests, tokens, concurrentRequests and money"),
        (limits(json!({ "requests": 1, "tokens": 1, "window": "Day" })), "exactly one of requests"),
        (limits(json!({ "requests": 1 })), "window must be set, except for concurrentRequests"),
        (limits(json!({ "concurrentRequests": 1, "window": "Day" })), "window must be set, except for"),
        (limits(json!({ "requests": 1, "count": "Input", "window": "Day" })), "count is for tokens only"),
        (limits(json!({ "requests": 0, "window": "Day" })), "spec.limits[0].requests"),
        (limits(json!({ "requests": 1, "window": "Week" })), "spec.limits[0].window"),
        (limits(json!({ "money": "1e3", "window": "Day" })), "spec.limits[0].money"),
        (limits(json!({ "money": "1.00", "window": "Day" })), "a limit of money needs prices"),
        (json!({ "callers": {} }), "exactly one of keySelector and condition must be set"),
        (
            json!({ "callers": { "keySelector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } } }),
            "values must be set",
        ),
        (json!({ "mode": "Audit" }), "spec.mode"),
        (json!({ "per": "" }), "spec.per"),
        (
            json!({ "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r", "sectionName": "s" }] }),
            "sectionName is supported for Gateways only",
        ),
        (
            json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "s" }] }),
            "spec.targetRefs[0].kind",
        ),
    ] {
        let refused = refusal(changes.clone()).await.unwrap_or_else(|| panic!("{changes} is accepted"));
        assert!(refused.contains(expected), "{changes}: {refused}");
    }
    assert_eq!(refusal(json!({})).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_writes_the_status_of_quotas() {
    let Some(harness) = Harness::start().await else { return };
    harness
        .apply(
            "gateway.networking.k8s.io/v1",
            "GatewayClass",
            "",
            "forebay",
            json!({ "spec": { "controllerName": OURS } }),
        )
        .await;
    harness.listen("public", 80).await;
    let gateway = harness.gateway("first", Ipv4Addr::new(127, 0, 44, 1)).await;
    let quota = (API, "Quota", "infra", "team");
    let is = |it: &Value, status: &str| has(&it["status"]["ancestors"][0]["conditions"], "Accepted", status);
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": spec(json!({})) })).await;
    let accepted = harness.until(quota, "the quota is accepted", |it| is(it, "True")).await;
    let ancestor = &accepted["status"]["ancestors"][0];
    assert_eq!(
        (&ancestor["controllerName"], &ancestor["ancestorRef"]["name"]),
        (&json!(OURS), &json!("public"))
    );
    // The API server does not compile expressions of users.
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": spec(json!({ "per": "apiKey." })) })).await;
    let refused = harness.until(quota, "the quota is refused", |it| is(it, "False")).await;
    let condition = condition(&refused["status"]["ancestors"][0]["conditions"], "Accepted").unwrap();
    assert_eq!((&condition["reason"], &condition["observedGeneration"]), (&json!("Invalid"), &json!(2)));
    let message = condition["message"].as_str().unwrap();
    assert!(message.starts_with("per: ") && message.contains("is closed"), "{message}");
    gateway.shutdown().await;
}
