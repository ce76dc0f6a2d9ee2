//! Quotas: what the API server refuses, and the status of those that it accepts.

use std::net::{Ipv4Addr, SocketAddr};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Harness, condition, get_status, has};

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

/// The pod of a gateway, as its kubelet reports it.
async fn set_ready(harness: &Harness, name: &str, is_ready: bool) {
    let pod = json!({
        "metadata": { "labels": { "app.kubernetes.io/name": "forebay-gateway" } },
        "spec": { "nodeName": "a", "containers": [{ "name": "gateway", "image": "gateway" }] },
    });
    harness.apply("v1", "Pod", "forebay", name, pod).await;
    let ready = if is_ready { "True" } else { "False" };
    let status = json!({ "conditions": [{ "type": "Ready", "status": ready }] });
    harness.set_status("v1", "Pod", "forebay", name, status).await;
}

/// Requests that are admitted, of 8 to each gateway.
async fn admitted(addresses: &[SocketAddr]) -> Vec<usize> {
    let mut all = Vec::new();
    for address in addresses {
        let mut count = 0;
        for _ in 0..8 {
            match get_status(*address).await {
                200 => count += 1,
                status => assert_eq!(status, 429),
            }
        }
        all.push(count);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_without_a_store_divide_limits_by_the_number_of_ready_ones() {
    let Some(harness) = Harness::start().await else { return };
    let class = json!({ "spec": { "controllerName": OURS } });
    harness.apply("gateway.networking.k8s.io/v1", "GatewayClass", "", "forebay", class).await;
    harness.pool("qwen").await;
    harness.route("chat", "public", "qwen").await;
    harness.listen("public", 80).await;
    let quota = (API, "Quota", "infra", "team");
    let limit = |amount: u32| spec(json!({ "limits": [{ "requests": amount, "window": "Month" }] }));
    let counted = |it: &Value| {
        let condition = condition(&it["status"]["ancestors"][0]["conditions"], "Counted");
        let texts =
            condition.map(|it| [&it["reason"], &it["message"]].map(|text| text.as_str().unwrap().to_owned()));
        texts.map(|[reason, message]| format!("{reason}: {message}")).unwrap_or_default()
    };
    let until_counted = async |expected: &str| {
        harness.until(quota, expected, |it| counted(it) == format!("PerReplica: {expected}")).await;
    };
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": limit(5) })).await;
    let ips = [1, 2, 3].map(|host| Ipv4Addr::new(127, 0, 46, host));
    let mut gateways = Vec::new();
    for (name, ip) in ["g-1", "g-2", "g-3"].into_iter().zip(ips) {
        set_ready(&harness, name, name != "g-3").await;
        if name != "g-3" {
            gateways.push(harness.gateway(name, ip).await);
        }
    }
    let service = ("v1", "Service", "forebay", "infra-public");
    let service = harness.until(service, "the Service", |it| !it.is_null()).await;
    let port = u16::try_from(service["spec"]["ports"][0]["targetPort"].as_u64().unwrap()).unwrap();
    let addresses = ips.map(|ip| SocketAddr::from((ip, port)));
    let until_open = async |address: SocketAddr| {
        let is_open = async { while get_status(address).await == 0 {} };
        tokio::time::timeout(DEADLINE, is_open).await.expect("the listener is open");
    };
    until_counted("each of 2 gateways admits 1/2 of each limit").await;
    for address in &addresses[..2] {
        until_open(*address).await;
    }
    // Nothing is used yet: a request for `until_open` may have been.
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": spec(json!({})) })).await;
    harness
        .until(quota, "the other window", |it| {
            it["status"]["ancestors"][0]["conditions"][0]["observedGeneration"] == 2
        })
        .await;
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": limit(5) })).await;
    harness
        .until(quota, "the month", |it| {
            it["status"]["ancestors"][0]["conditions"][0]["observedGeneration"] == 3
        })
        .await;
    assert_eq!(admitted(&addresses[..2]).await, [3, 2]);

    // One more: those that have used more than their share keep it as used.
    gateways.push(harness.gateway("g-3", ips[2]).await);
    set_ready(&harness, "g-3", true).await;
    until_counted("each of 3 gateways admits 1/3 of each limit").await;
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": limit(2) })).await;
    let few = "each of 3 gateways admits 1/3 of each limit; of the smallest limit, 2 of them admit 1 and the others nothing";
    until_counted(few).await;
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": limit(9) })).await;
    until_counted("each of 3 gateways admits 1/3 of each limit").await;
    assert_eq!(admitted(&addresses[..2]).await, [0, 1], "of 3 each, 3 and 2 were used");

    // A gateway that has left is not replaced by larger shares in the same window.
    set_ready(&harness, "g-3", false).await;
    gateways.remove(2).shutdown().await;
    until_counted("each of 2 gateways admits 1/2 of each limit").await;
    assert_eq!(admitted(&addresses[..2]).await, [0, 0]);
    for gateway in gateways {
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_says_what_it_does_not_reach() {
    let Some(harness) = Harness::start().await else { return };
    let class = json!({ "spec": { "controllerName": OURS } });
    harness.apply("gateway.networking.k8s.io/v1", "GatewayClass", "", "forebay", class).await;
    let keys = json!({ "callers": { "keySelector": { "matchLabels": { "team": "a" } } } });
    harness.apply(API, "Quota", "infra", "team", json!({ "spec": spec(keys) })).await;
    let gateway = harness.gateway("first", Ipv4Addr::new(127, 0, 47, 1)).await;
    let quota = (API, "Quota", "infra", "team");
    let is = |it: &Value, kind: &str, status: &str, reason: &str| {
        let condition = condition(&it["status"]["ancestors"][0]["conditions"], kind);
        condition.is_some_and(|it| it["status"] == status && it["reason"] == reason)
    };
    harness.until(quota, "no target", |it| is(it, "Accepted", "False", "TargetNotFound")).await;
    harness.listen("public", 80).await;
    harness
        .until(quota, "no key", |it| {
            is(it, "Accepted", "True", "Accepted") && is(it, "Attached", "False", "NoKeys")
        })
        .await;
    let entry = json!({ "key": "k", "metadata": { "team": "a" } }).to_string();
    harness.apply("v1", "Secret", "infra", "keys", json!({ "stringData": { "a": entry } })).await;
    let policy = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "traffic": { "apiKeyAuthentication": { "secretRef": { "name": "keys" } } },
    } });
    harness.apply("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "door", policy).await;
    harness.until(quota, "a key", |it| is(it, "Attached", "True", "Attached")).await;
    gateway.shutdown().await;
}
