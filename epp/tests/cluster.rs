//! The picker in a cluster, with only the permissions of its two Roles.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

use std::{net::SocketAddr, time::Duration};

use forebay_apiserver::{ApiServer, crds};
use forebay_epp::{AGENT_RULES, POOL_RULES, PickerOptions, Server, ServerOptions};
use forebay_resources::{
    ObjectKey, ResourceSource,
    cluster::{FOLLOW, Rule},
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const USER: &str = "system:serviceaccount:models:qwen-epp";

async fn apply(client: &Client, api_version: &str, kind: &str, namespace: &str, name: &str, rest: Value) {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let mut object = json!({ "apiVersion": api_version, "kind": kind });
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object["metadata"]["name"] = json!(name);
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    if kind == "Pod" {
        let status = json!({ "status": rest["status"] });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
}

async fn pod(client: &Client, namespace: &str, name: &str, app: &str, ip: &str) {
    let rest = json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "nodeName": "a", "containers": [{ "name": "c", "image": "i" }] },
        "status": { "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    apply(client, "v1", "Pod", namespace, name, rest).await;
}

async fn pool(client: &Client, app: &str) {
    let spec = json!({ "spec": { "selector": { "matchLabels": { "app": app } }, "targetPorts": [{ "number": 8000 }] } });
    apply(client, "inference.networking.k8s.io/v1", "InferencePool", "models", "qwen", spec).await;
}

/// Waits until the picker has these endpoints and agents.
async fn until(server: &Server, endpoints: &[&str], agents: &[&str]) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let scheduler = server.scheduler(&ObjectKey::new("models", "qwen")).unwrap();
        let known = scheduler.endpoints();
        let mut found: Vec<String> =
            known.endpoints().iter().map(|it| it.endpoint.address.to_string()).collect();
        let mut found_agents: Vec<String> =
            server.pools().agents().views().iter().map(|it| it.address.to_string()).collect();
        found.sort();
        found_agents.sort();
        if found == endpoints && found_agents == agents {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {found:?}, agents {found_agents:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A picker of the pool `models/qwen` with the permissions of [`USER`].
async fn start(api: &ApiServer) -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::start(ServerOptions {
        resources: ResourceSource::Cluster { kubeconfig: Some(api.kubeconfig_as(USER).unwrap()) },
        pools: ObjectKey::new("models", "qwen").into(),
        grpc_listen: vec![any],
        tls: None,
        health_listen: any,
        http_listen: any,
        picker: PickerOptions {
            agent_namespace: Some("forebay".into()),
            agent_selector: "app=agent".into(),
            agent_port: 1,
            ..PickerOptions::default()
        },
        max_message_bytes: 4 << 20,
        max_streams: 10,
        obeyed: forebay_epp::protocol::ObeyedHeaders::default(),
        drain_timeout: Duration::from_secs(1),
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_pool_and_agents_with_two_roles() {
    let Some(api) = ApiServer::start().await.unwrap() else { return };
    api.install(crds()).await.unwrap();
    let client = api.client().await.unwrap();
    for namespace in ["models", "forebay"] {
        apply(&client, "v1", "Namespace", "", namespace, json!({})).await;
    }
    api.grant(USER, Some("models"), POOL_RULES).await.unwrap();
    api.grant(USER, Some("forebay"), AGENT_RULES).await.unwrap();
    let server = start(&api).await;

    pod(&client, "models", "qwen-0", "qwen", "127.0.43.1").await;
    pod(&client, "models", "other-0", "other", "127.0.43.2").await;
    pod(&client, "forebay", "agent-0", "agent", "127.0.43.3").await;
    // The label of agents in another namespace.
    pod(&client, "models", "no-agent", "agent", "127.0.43.4").await;
    until(&server, &[], &["127.0.43.3:1"]).await;
    pool(&client, "qwen").await;
    until(&server, &["127.0.43.1:8000"], &["127.0.43.3:1"]).await;
    // A new selector needs a new watch.
    pool(&client, "other").await;
    until(&server, &["127.0.43.2:8000"], &["127.0.43.3:1"]).await;
    server.shutdown().await;
}

/// The Role that GAIE's manifests give to a picker does not name all API groups of objectives and rewrites, and no pods of
/// other namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn needs_only_permissions_for_its_pool_and_pods() {
    const WITHOUT_THEM: &[Rule] = &[
        Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
        Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW },
    ];
    let Some(api) = ApiServer::start().await.unwrap() else { return };
    api.install(crds()).await.unwrap();
    let client = api.client().await.unwrap();
    for namespace in ["models", "forebay"] {
        apply(&client, "v1", "Namespace", "", namespace, json!({})).await;
    }
    api.grant(USER, Some("models"), WITHOUT_THEM).await.unwrap();
    pod(&client, "models", "qwen-0", "qwen", "127.0.43.1").await;
    pod(&client, "forebay", "agent-0", "agent", "127.0.43.3").await;
    pool(&client, "qwen").await;
    let server = start(&api).await;
    until(&server, &["127.0.43.1:8000"], &[]).await;
    // A permission that comes later is used.
    api.grant(USER, Some("forebay"), AGENT_RULES).await.unwrap();
    until(&server, &["127.0.43.1:8000"], &["127.0.43.3:1"]).await;
    server.shutdown().await;
}
