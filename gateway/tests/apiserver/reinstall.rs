//! A gateway that is uninstalled and installed again.

use std::net::Ipv4Addr;
use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Harness, condition, has};

const API: &str = "gateway.networking.k8s.io/v1";
const LEASE: (&str, &str, &str, &str) = ("coordination.k8s.io/v1", "Lease", "forebay", "forebay-gateway");
/// Another replica waits that long for a Lease that was not given back.
const LEASE_DURATION: Duration = Duration::from_secs(10);

/// A gateway pod of a Deployment, as its controllers create it. Returns the uid of the Deployment.
async fn deploy(harness: &Harness, pod: &str) -> String {
    let labels = json!({ "app": "gateway" });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": { "containers": [{ "name": "gateway", "image": "forebay" }] },
    });
    let spec = json!({ "selector": { "matchLabels": labels }, "template": template });
    harness.apply("apps/v1", "Deployment", "forebay", "gateway", json!({ "spec": spec })).await;
    let owner = async |kind: &str, api_version: &str| {
        let object = harness.get(api_version, kind, "forebay", "gateway").await;
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        (
            json!([{ "apiVersion": api_version, "kind": kind, "name": "gateway", "uid": uid, "controller": true }]),
            uid,
        )
    };
    let (owners, uid) = owner("Deployment", "apps/v1").await;
    let set = json!({ "metadata": { "ownerReferences": owners }, "spec": spec });
    harness.apply("apps/v1", "ReplicaSet", "forebay", "gateway", set).await;
    let (owners, _) = owner("ReplicaSet", "apps/v1").await;
    let object =
        json!({ "metadata": { "ownerReferences": owners, "labels": labels }, "spec": template["spec"] });
    harness.apply("v1", "Pod", "forebay", pod, object).await;
    uid
}

async fn delete(harness: &Harness, api_version: &str, kind: &str, name: &str) {
    let params = DeleteParams::default().grace_period(0);
    harness.api(api_version, kind, "forebay").delete(name, &params).await.unwrap();
    harness.until((api_version, kind, "forebay", name), "it is deleted", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_shutdown_gives_the_lease_back() {
    let Some(harness) = Harness::start().await else { return };
    let uid = deploy(&harness, "first").await;
    let first = harness.gateway("first", Ipv4Addr::new(127, 0, 43, 1)).await;
    let lease =
        harness.until(LEASE, "the Lease is taken", |it| it["spec"]["holderIdentity"] == "first").await;
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], uid, "it is deleted with the Deployment");
    first.shutdown().await;
    let lease = harness.get(LEASE.0, LEASE.1, LEASE.2, LEASE.3).await;
    assert_eq!(lease["spec"]["holderIdentity"], "", "{lease:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_installation_takes_the_lease_of_a_deleted_pod_at_once() {
    let Some(harness) = Harness::start().await else { return };
    deploy(&harness, "first").await;
    harness.listen("public", 80).await;
    let first = harness.gateway("first", Ipv4Addr::new(127, 0, 43, 2)).await;
    harness.ready_behind("infra-public", 80).await;
    let public = (API, "Gateway", "infra", "public");
    let programmed = |it: &Value| has(&it["status"]["conditions"], "Programmed", "True");
    harness.until(public, "the Gateway is programmed", programmed).await;

    // `helm uninstall` removes the permissions before the pod stops, and the Services with their Deployment.
    let binding = "system-serviceaccount-forebay-forebay-gateway-forebay";
    let role = harness.get("rbac.authorization.k8s.io/v1", "RoleBinding", "forebay", binding).await;
    delete(&harness, "rbac.authorization.k8s.io/v1", "RoleBinding", binding).await;
    first.shutdown().await;
    let lease = harness.get(LEASE.0, LEASE.1, LEASE.2, LEASE.3).await;
    assert_eq!(lease["spec"]["holderIdentity"], "first", "it was not allowed to give the Lease back");
    delete(&harness, "v1", "Service", "infra-public").await;
    delete(&harness, "discovery.k8s.io/v1", "EndpointSlice", "infra-public-x").await;
    for (api_version, kind, name) in
        [("v1", "Pod", "first"), ("apps/v1", "ReplicaSet", "gateway"), ("apps/v1", "Deployment", "gateway")]
    {
        delete(&harness, api_version, kind, name).await;
    }
    let old = harness.get(public.0, public.1, public.2, public.3).await["status"]["addresses"].clone();
    assert_eq!(old.as_array().unwrap().len(), 1, "the status still has the old address");

    // `helm install`.
    let again = json!({ "roleRef": role["roleRef"], "subjects": role["subjects"] });
    harness.apply("rbac.authorization.k8s.io/v1", "RoleBinding", "forebay", binding, again).await;
    let uid = deploy(&harness, "second").await;
    let second = harness.gateway("second", Ipv4Addr::new(127, 0, 43, 3)).await;
    let started = Instant::now();
    let lease =
        harness.until(LEASE, "the Lease is taken over", |it| it["spec"]["holderIdentity"] == "second").await;
    assert!(started.elapsed() < LEASE_DURATION, "it waited until the Lease expired: {:?}", started.elapsed());
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], uid);
    let gateway = harness
        .until(public, "the dead address is gone", |it| {
            condition(&it["status"]["conditions"], "Programmed").is_some_and(|it| it["status"] == "False")
                && it["status"]["addresses"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    assert_ne!(gateway["status"]["addresses"], old);
    harness.ready_behind("infra-public", 80).await;
    harness.until(public, "it has the new address", programmed).await;
    second.shutdown().await;
}
