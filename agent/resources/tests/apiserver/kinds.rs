//! Missing kinds, older API groups, and invalid objects.

use forebay_apiserver::{crds, open_crd};
use forebay_resources::{Kind, ObjectKey};
use kube::api::DeleteParams;
use serde_json::json;

use forebay_apiserver::store::{api, apply, interest, namespace, provide, shared, until};

const POOLS: &str = "inference.networking.k8s.io/v1";

#[tokio::test]
async fn reports_invalid_object_and_keeps_others() {
    let Some(server) = shared().await else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "invalid").await;
    let pools = api(&client, POOLS, "InferencePool", "inferencepools", "invalid");
    let pool = |port: u32| json!({ "spec": { "selector": { "matchLabels": { "app": "a" } }, "targetPorts": [{ "number": port }] } });
    apply(&pools, POOLS, "InferencePool", "bad", pool(70_000)).await;
    apply(&pools, POOLS, "InferencePool", "good", pool(8000)).await;

    let (store, _provider) = provide(client.clone(), interest([Kind::InferencePool], "invalid"));
    let (bad, good) = (ObjectKey::new("invalid", "bad"), ObjectKey::new("invalid", "good"));
    let first = until(&store, "the first list", |_| true).await;
    assert!(first.inference_pools.contains_key(&good) && !first.inference_pools.contains_key(&bad));
    let problem = first.problems[0].to_string();
    assert!(
        problem.starts_with("cluster: InferencePool invalid/bad: spec.targetPorts[0].number: "),
        "{problem}"
    );

    apply(&pools, POOLS, "InferencePool", "bad", pool(8001)).await;
    until(&store, "the invalid object is corrected", |it| {
        it.inference_pools.contains_key(&bad) && it.problems.is_empty()
    })
    .await;
    apply(&pools, POOLS, "InferencePool", "good", pool(0)).await;
    until(&store, "the valid object becomes invalid", |it| {
        !it.inference_pools.contains_key(&good) && it.problems.len() == 1
    })
    .await;
    pools.delete("good", &DeleteParams::default()).await.unwrap();
    until(&store, "a deleted object is not a problem", |it| it.problems.is_empty()).await;
}

#[tokio::test]
async fn starts_without_missing_kind_and_finds_it_later() {
    let Some(server) = shared().await else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "late").await;
    let (store, _provider) =
        provide(client.clone(), interest([Kind::ConfigMap, Kind::AgentgatewayPolicy], "late"));
    let first = until(&store, "a snapshot without the kind", |_| true).await;
    assert!(first.agentgateway_policies.is_empty());

    let definition = crds().into_iter().find(|it| it.spec.names.kind == "AgentgatewayPolicy").unwrap();
    server.install([definition]).await.unwrap();
    let version = "agentgateway.dev/v1alpha1";
    let policies = api(&client, version, "AgentgatewayPolicy", "agentgatewaypolicies", "late");
    apply(&policies, version, "AgentgatewayPolicy", "bbr", json!({ "spec": { "targetRefs": [] } })).await;
    let key = ObjectKey::new("late", "bbr");
    until(&store, "the kind is installed", |it| it.agentgateway_policies.contains_key(&key)).await;
}

#[tokio::test]
async fn reads_older_group_until_newer_is_served() {
    let Some(server) = shared().await else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "groups").await;
    let old = "inference.networking.x-k8s.io/v1alpha2";
    server
        .install([open_crd(
            "inference.networking.x-k8s.io",
            "v1alpha2",
            "InferenceObjective",
            "inferenceobjectives",
        )])
        .await
        .unwrap();
    let spec = json!({ "spec": { "priority": 1, "poolRef": { "name": "qwen" } } });
    let objectives = api(&client, old, "InferenceObjective", "inferenceobjectives", "groups");
    apply(&objectives, old, "InferenceObjective", "old", spec.clone()).await;
    let (store, _provider) = provide(client.clone(), interest([Kind::InferenceObjective], "groups"));
    let key = |name: &str| ObjectKey::new("groups", name);
    until(&store, "the older group's object", |it| it.inference_objectives.contains_key(&key("old"))).await;

    let new = "llm-d.ai/v1alpha2";
    server
        .install([open_crd("llm-d.ai", "v1alpha2", "InferenceObjective", "inferenceobjectives")])
        .await
        .unwrap();
    let objectives = api(&client, new, "InferenceObjective", "inferenceobjectives", "groups");
    apply(&objectives, new, "InferenceObjective", "new", spec).await;
    until(&store, "only the object of the newer group", |it| {
        it.inference_objectives.contains_key(&key("new"))
            && !it.inference_objectives.contains_key(&key("old"))
    })
    .await;
}

#[tokio::test]
async fn status_update_does_not_change_object() {
    let Some(server) = shared().await else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "status").await;
    let version = "gateway.networking.k8s.io/v1";
    let routes = api(&client, version, "HTTPRoute", "httproutes", "status");
    apply(&routes, version, "HTTPRoute", "r", json!({ "spec": { "hostnames": ["a.example.com"] } })).await;
    let interest = interest([Kind::HttpRoute, Kind::ConfigMap], "status").with_statuses([Kind::HttpRoute]);
    let (store, provider) = provide(client.clone(), interest);
    let mut statuses = provider.statuses();
    let first = until(&store, "the first list", |_| true).await;
    let patch = kube::api::Patch::Merge(json!({ "status": { "parents": [] } }));
    routes.patch_status("r", &kube::api::PatchParams::default(), &patch).await.unwrap();
    let key = ObjectKey::new("status", "r");
    let seen = statuses.wait_for(|statuses| {
        statuses
            .get(Kind::HttpRoute, &key)
            .is_some_and(|it| it.status == json!({ "parents": [] }) && it.generation == 1)
    });
    tokio::time::timeout(forebay_apiserver::store::DEADLINE, seen)
        .await
        .expect("the status is seen")
        .unwrap();
    let maps = api(&client, "v1", "ConfigMap", "configmaps", "status");
    apply(&maps, "v1", "ConfigMap", "after", json!({ "data": {} })).await;
    let last = until(&store, "another object", |it| !it.config_maps.is_empty()).await;
    assert_eq!(last.generation, first.generation + 1, "one change, one snapshot");
    assert!(last.http_routes.is_same(&first.http_routes), "the map of routes is unchanged");
}
