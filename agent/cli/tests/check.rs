//! `forebay check` on a cluster that has been installed with mistakes. What it says to do is done, and then
//! nothing is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use forebay_agent::publish::{Publisher, TelemetryService};
use forebay_apiserver::{ApiServer, crds, open_crd};
use forebay_telemetry::v1::{Node, telemetry_server::TelemetryServer};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use forebay_apiserver::store::{api, apply, namespace};

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
const POOLS: &str = "inference.networking.k8s.io/v1";

/// What `forebay check` found, and its exit code.
struct Found {
    items: Vec<Value>,
    code: Option<i32>,
}

async fn check(kubeconfig: &Path, agent: SocketAddr) -> Found {
    run(kubeconfig, &["--agents", &agent.to_string()]).await
}

async fn run(kubeconfig: &Path, arguments: &[&str]) -> Found {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["check", "-o", "json"])
        .args(arguments)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .env_remove("FOREBAY_RESOURCES")
        .output()
        .await
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no document: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(document["kind"], "FindingList");
    Found { items: document["items"].as_array().unwrap().clone(), code: output.status.code() }
}

impl Found {
    fn wrong(&self) -> Vec<String> {
        self.items.iter().filter(|item| item["level"] != "ok").map(Value::to_string).collect()
    }

    /// The command of the one that is of this level and kind and says this.
    fn command(&self, level: &str, kind: &str, message: &str) -> String {
        let item = self.item(level, kind, message);
        item["command"].as_str().unwrap_or_else(|| panic!("no command: {item}")).to_owned()
    }

    /// The fix of the one that is of this level and kind and says this.
    fn fix(&self, level: &str, kind: &str, message: &str) -> String {
        self.item(level, kind, message)["fix"].as_str().unwrap().to_owned()
    }

    fn item(&self, level: &str, kind: &str, message: &str) -> &Value {
        let mut items = self.items.iter().filter(|item| {
            item["level"] == level
                && item["kind"] == kind
                && item["message"].as_str().unwrap().contains(message)
        });
        items.next().unwrap_or_else(|| panic!("{kind}: {message}: not in {:#?}", self.items))
    }
}

/// An agent that counts, in this process.
async fn agent() -> (SocketAddr, JoinSet<()>) {
    let publisher = Arc::new(Publisher::new(Node { name: "node-a".into(), ..Node::default() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TelemetryService::new(publisher, 1, CancellationToken::new());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(TelemetryServer::new(service));
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, serving)
}

/// Runs a command as kubectl would: `kubectl patch …` or `echo MANIFEST | kubectl create -f -`.
async fn follow(client: &Client, command: &str) {
    let (command, data) = command.split_once('\'').unwrap_or_else(|| panic!("nothing to apply in {command}"));
    let data: Value = serde_json::from_str(data.split('\'').next().unwrap()).unwrap();
    let words: Vec<&str> = command.split_whitespace().collect();
    if let ["kubectl", "patch", "httproute", name, "-n", namespace, "--type=json", "-p="] = words[..] {
        let api = api(client, GATEWAYS, "HTTPRoute", "httproutes", namespace);
        let [test, add] = data.as_array().unwrap().as_slice() else { panic!("{data}") };
        assert_eq!(test["op"], "test");
        let route = api.get(name).await.unwrap().data;
        assert_eq!(route.pointer(test["path"].as_str().unwrap()), Some(&test["value"]));
        self::add(&api, name, add).await;
    } else {
        assert_eq!((words.as_slice(), data["kind"].as_str()), (&["echo"][..], Some("ReferenceGrant")));
        let namespace = data["metadata"]["namespace"].as_str().unwrap().to_owned();
        let name = data["metadata"]["name"].as_str().unwrap().to_owned();
        let grants = api(client, GATEWAYS, "ReferenceGrant", "referencegrants", &namespace);
        apply(&grants, GATEWAYS, "ReferenceGrant", &name, json!({ "spec": data["spec"] })).await;
    }
}

/// One `add` of a JSON patch, to an object's member (RFC 6902).
async fn add(api: &Api<DynamicObject>, name: &str, operation: &Value) {
    assert_eq!(operation["op"], "add");
    let (parent, member) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
    let mut object = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
    object.pointer_mut(parent).unwrap()[member] = operation["value"].clone();
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.replace(name, &kube::api::PostParams::default(), &object).await.unwrap();
}

async fn status(api: &Api<DynamicObject>, name: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

fn conditions(names: &[&str]) -> Value {
    let condition = |name: &&str| json!({ "type": name, "status": "True", "reason": name, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    names.iter().map(condition).collect()
}

/// The Gateway, as the gateway reports it.
async fn report_gateway(client: &Client, attached: i32) {
    let gateways = api(client, GATEWAYS, "Gateway", "gateways", "infra");
    let listener = json!({
        "name": "http", "attachedRoutes": attached, "supportedKinds": [],
        "conditions": conditions(&["Accepted", "ResolvedRefs", "Programmed"]),
    });
    let report = json!({
        "addresses": [{ "type": "IPAddress", "value": "10.96.0.7" }],
        "conditions": conditions(&["Accepted", "Programmed"]),
        "listeners": [listener],
    });
    status(&gateways, "inference-gateway", report).await;
}

/// A route, as the gateway reports it.
async fn report_route(client: &Client, name: &str) {
    let routes = api(client, GATEWAYS, "HTTPRoute", "httproutes", "llm-d");
    let parent = json!({
        "controllerName": "forebay.dev/gateway",
        "parentRef": { "name": "inference-gateway", "namespace": "infra" },
        "conditions": conditions(&["Accepted", "ResolvedRefs"]),
    });
    status(&routes, name, json!({ "parents": [parent] })).await;
}

/// An address belongs to one pod.
async fn pod(client: &Client, namespace: &str, name: &str, ip: &str, label: (&str, &str)) {
    let pods = api(client, "v1", "Pod", "pods", namespace);
    let object = json!({
        "metadata": { "labels": { label.0: label.1 } },
        "spec": {
            "nodeName": "node-a",
            "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 8000 }] }],
        },
    });
    apply(&pods, "v1", "Pod", name, object).await;
    let running = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": conditions(&["Ready"]) });
    status(&pods, name, running).await;
}

/// What Helm installs, as controllers would have brought it up.
async fn install(client: &Client) {
    let classes: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &kube::core::ApiResource::from_gvk_with_plural(
            &kube::core::GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass"),
            "gatewayclasses",
        ),
    );
    let spec = json!({ "spec": { "controllerName": "forebay.dev/gateway" } });
    apply(&classes, GATEWAYS, "GatewayClass", "forebay", spec).await;
    status(&classes, "forebay", json!({ "conditions": conditions(&["Accepted"]) })).await;
    let label = json!({ "app.kubernetes.io/name": "forebay-gateway" });
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "forebay-gateway", "labels": label },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": label },
            "template": {
                "metadata": { "labels": label },
                "spec": { "containers": [{ "name": "gateway", "image": "forebay" }] },
            },
        },
    }))
    .unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), "forebay-system");
    deployments.create(&kube::api::PostParams::default(), &deployment).await.unwrap();
    let ready = Patch::Merge(json!({ "status": { "replicas": 1, "readyReplicas": 1 } }));
    deployments.patch_status("forebay-gateway", &PatchParams::default(), &ready).await.unwrap();
    pod(client, "forebay-system", "agent-a", "10.0.0.1", ("app.kubernetes.io/name", "forebay-agent")).await;
    let gateways = api(client, GATEWAYS, "Gateway", "gateways", "infra");
    let spec = json!({ "spec": {
        "gatewayClassName": "forebay",
        "listeners": [{
            "name": "http", "port": 8080, "protocol": "HTTP",
            "allowedRoutes": { "namespaces": { "from": "All" } },
        }],
    } });
    apply(&gateways, GATEWAYS, "Gateway", "inference-gateway", spec).await;
}

/// The guide with its classic mistakes: the route names the Gateway without its namespace, the pool asks for
/// another label than the pods have, the route writes the model with other capitals, and one route goes to a
/// pool of another namespace that has not allowed it.
async fn serve_with_mistakes(client: &Client) {
    let policies =
        api(client, "agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "agentgatewaypolicies", "infra");
    let value = r#"{"Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B"}[json(request.body).model]"#;
    let spec = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference-gateway" }],
        "traffic": {
            "phase": "PreRouting",
            "transformation": { "request": { "set": [{ "name": "X-Gateway-Base-Model-Name", "value": value }] } },
        },
    } });
    apply(&policies, "agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "bbr", spec).await;
    for namespace in ["llm-d", "pools"] {
        let pools = api(client, POOLS, "InferencePool", "inferencepools", namespace);
        let spec = json!({ "spec": {
            "selector": { "matchLabels": { "app": "vllm-qwen3-06b" } },
            "targetPorts": [{ "number": 8000 }],
        } });
        apply(&pools, POOLS, "InferencePool", "qwen", spec).await;
    }
    pod(client, "llm-d", "qwen-0", "10.0.0.2", ("app", "vllm-qwen")).await;
    pod(client, "pools", "qwen-0", "10.0.0.3", ("app", "vllm-qwen3-06b")).await;
    route(client, "qwen", json!({ "name": "inference-gateway" }), "qwen/qwen3-0.6b", "llm-d").await;
    let parent = json!({ "name": "inference-gateway", "namespace": "infra" });
    route(client, "far", parent, "Qwen/Qwen3-0.6B", "pools").await;
}

async fn route(client: &Client, name: &str, parent: Value, model: &str, pool_namespace: &str) {
    let routes = api(client, GATEWAYS, "HTTPRoute", "httproutes", "llm-d");
    let spec = json!({ "spec": {
        "parentRefs": [parent],
        "rules": [{
            "matches": [{ "headers": [{ "name": "X-Gateway-Base-Model-Name", "value": model }] }],
            "backendRefs": [{
                "group": "inference.networking.k8s.io", "kind": "InferencePool",
                "name": "qwen", "namespace": pool_namespace,
            }],
        }],
    } });
    apply(&routes, GATEWAYS, "HTTPRoute", name, spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_faults_and_its_fixes_work() {
    let Some(server) = ApiServer::start().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    let kubeconfig = server.kubeconfig().unwrap();
    let (agent, _serving) = agent().await;

    let bare = check(&kubeconfig, agent).await;
    assert_eq!(bare.code, Some(1), "{:#?}", bare.items);
    for kind in ["gatewayclasses", "gateways", "httproutes", "referencegrants", "inferencepools"] {
        let missed = |item: &Value| {
            item["level"] == "error" && item["name"].as_str().is_some_and(|it| it.starts_with(kind))
        };
        assert!(bare.items.iter().any(missed), "{kind}: {:#?}", bare.items);
    }

    server.install(crds()).await.unwrap();
    for name in ["forebay-system", "infra", "llm-d", "pools"] {
        namespace(&client, name).await;
    }
    install(&client).await;
    serve_with_mistakes(&client).await;
    report_gateway(&client, 0).await;
    report_route(&client, "far").await;

    let found = check(&kubeconfig, agent).await;
    assert_eq!(found.code, Some(1));
    let commands = [
        found.command("error", "HTTPRoute", "names Gateway llm-d/inference-gateway, which does not exist"),
        found.command("error", "HTTPRoute", "refers to InferencePool pools/qwen in another namespace"),
    ];
    found.fix("warning", "Gateway", "no HTTPRoute is attached");
    for command in commands {
        follow(&client, &command).await;
    }
    // Only the operator knows whether the pod with a similar label serves the pool's model.
    let empty = found.item("error", "InferencePool", "selects no Pod: its selector is app=vllm-qwen3-06b");
    assert_eq!(empty["command"], Value::Null, "{empty}");
    assert!(empty["message"].as_str().unwrap().contains("app=vllm-qwen (Pod qwen-0)"), "{empty}");
    pod(&client, "llm-d", "qwen-0", "10.0.0.2", ("app", "vllm-qwen3-06b")).await;
    report_gateway(&client, 2).await;
    report_route(&client, "qwen").await;

    // The model is checked only for an attached route.
    let found = check(&kubeconfig, agent).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.wrong().len(), 1, "{:#?}", found.wrong());
    let fix = found.fix("error", "HTTPRoute", r#"matches base model "qwen/qwen3-0.6b""#);
    assert!(fix.contains(r#"did you mean "Qwen/Qwen3-0.6B""#), "{fix}");
    let parent = json!({ "name": "inference-gateway", "namespace": "infra" });
    route(&client, "qwen", parent, "Qwen/Qwen3-0.6B", "llm-d").await;

    let well = check(&kubeconfig, agent).await;
    assert_eq!((well.code, well.wrong()), (Some(0), Vec::new()));

    // An older API group.
    let old = "inference.networking.x-k8s.io";
    server.install([open_crd(old, "v1alpha2", "InferencePool", "inferencepools")]).await.unwrap();
    let version = format!("{old}/v1alpha2");
    let pools = api(&client, &version, "InferencePool", "inferencepools", "llm-d");
    for name in ["old", "qwen"] {
        apply(&pools, &version, "InferencePool", name, json!({ "spec": { "targetPortNumber": 8000 } })).await;
    }
    let unserved = check(&kubeconfig, agent).await;
    assert_eq!((unserved.code, unserved.wrong().len()), (Some(1), 1), "{:#?}", unserved.wrong());
    unserved.fix("error", "InferencePool llm-d/old", "use InferencePool of inference.networking.k8s.io/v1");

    // A user who may list nothing has checked nothing.
    let nothing = run(&server.kubeconfig_as("stranger").unwrap(), &[]).await;
    assert_eq!(nothing.code, Some(1), "{:#?}", nothing.items);
    assert!(nothing.items.iter().all(|item| item["level"] == "not-checked"), "{:#?}", nothing.items);

    // Kinds that the user may not list are never reported as ok.
    let stranger = server.kubeconfig_as("stranger").unwrap();
    let unknown = check(&stranger, agent).await;
    assert_eq!(unknown.code, Some(3), "nothing is known to be wrong, most is unknown: {:#?}", unknown.items);
    unknown.fix(
        "not-checked",
        "httproutes",
        "not checked: httproutes.gateway.networking.k8s.io is forbidden",
    );
    let kinds = ["Kinds", "GatewayClass", "Gateway", "HTTPRoutes", "InferencePool", "Models"];
    let said = unknown.items.iter().filter(|item| item["level"] == "ok");
    for item in said {
        assert!(!kinds.contains(&item["kind"].as_str().unwrap()), "{item}");
    }
}
