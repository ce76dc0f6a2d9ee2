//! A valid installation, and the findings for one fault at a time.

mod agreement;
mod gateways;
mod installation;
mod models;
mod pools;
mod quotas;
mod routes;

use std::{collections::BTreeMap, sync::Arc};

use forebay_resources::{
    Kind, Snapshot, Store,
    cluster::{Listed, Selection},
};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::{
    Finding, Installation, Level, finding, findings,
    installation::{AgentState, Cluster, report},
};

/// The guide's manifests with the statuses of a working installation.
const VALID: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: forebay }
spec: { controllerName: forebay.dev/gateway }
status: { conditions: [{ type: Accepted, status: "True", reason: Accepted }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: inference-gateway, namespace: infra }
spec:
  gatewayClassName: forebay
  listeners: [{ name: http, port: 8080, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }]
status:
  addresses: [{ value: 10.96.0.7 }]
  conditions:
  - { type: Accepted, status: "True", reason: Accepted }
  - { type: Programmed, status: "True", reason: Programmed }
  listeners:
  - name: http
    attachedRoutes: 1
    conditions:
    - { type: Accepted, status: "True", reason: Accepted }
    - { type: ResolvedRefs, status: "True", reason: ResolvedRefs }
    - { type: Programmed, status: "True", reason: Programmed }
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: { name: bbr, namespace: infra }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway }]
  traffic:
    phase: PreRouting
    transformation:
      request:
        set:
        - name: X-Gateway-Base-Model-Name
          value: '{"Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B"}[json(request.body).model]'
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: qwen, namespace: llm-d }
spec:
  parentRefs: [{ name: inference-gateway, namespace: infra }]
  rules:
  - matches: [{ headers: [{ name: X-Gateway-Base-Model-Name, value: Qwen/Qwen3-0.6B }] }]
    backendRefs: [{ group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]
status:
  parents:
  - controllerName: forebay.dev/gateway
    parentRef: { name: inference-gateway, namespace: infra }
    conditions:
    - { type: Accepted, status: "True", reason: Accepted }
    - { type: ResolvedRefs, status: "True", reason: ResolvedRefs }
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: qwen, namespace: llm-d }
spec:
  selector: { matchLabels: { app: vllm-qwen3-06b } }
  targetPorts: [{ number: 8000 }]
  endpointPickerRef: { name: qwen-epp, port: { number: 9002 } }
---
apiVersion: v1
kind: Service
metadata: { name: qwen-epp, namespace: llm-d }
spec: { ports: [{ name: grpc, port: 9002 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: qwen-epp-x, namespace: llm-d, labels: { kubernetes.io/service-name: qwen-epp } }
addressType: IPv4
ports: [{ name: grpc, port: 9002 }]
endpoints: [{ addresses: [10.0.0.9], conditions: { ready: true } }]
---
apiVersion: v1
kind: Pod
metadata: { name: qwen-0, namespace: llm-d, labels: { app: vllm-qwen3-06b } }
spec: { nodeName: node-a, containers: [{ name: vllm, image: vllm, ports: [{ containerPort: 8000 }] }] }
status: { podIP: 10.0.0.1, phase: Running, conditions: [{ type: Ready, status: "True" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: agent-a, namespace: forebay-system, labels: { app.kubernetes.io/name: forebay-agent } }
spec: { nodeName: node-a, containers: [{ name: agent, image: forebay }] }
status: { podIP: 10.0.0.2, phase: Running, conditions: [{ type: Ready, status: "True" }] }
"#;

/// Adds the fields that every condition must have.
fn with_times(text: &str) -> String {
    let begin = r#"{ lastTransitionTime: "2026-01-01T00:00:00Z", "#;
    let complete = |line: &str| {
        let message = if line.contains("message: ") { "" } else { r#"message: "", "# };
        line.replace("{ type: ", &format!("{begin}{message}type: "))
    };
    text.lines().map(complete).collect::<Vec<_>>().join("\n")
}

fn snapshot(text: &str) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), with_times(text)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::new();
        let _provider = forebay_resources::folder::start(folder.path(), store.clone()).await.unwrap();
        Snapshot::clone(&store.snapshot())
    })
}

fn deployment(replicas: i32, ready: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "forebay-gateway", "namespace": "forebay-system" },
        "spec": { "replicas": replicas, "selector": {}, "template": {} },
        "status": { "readyReplicas": ready },
    }))
    .unwrap()
}

fn agent(problem: Option<&str>, kernel_off: Option<&str>) -> AgentState {
    let text = |text: Option<&str>| text.map(str::to_owned);
    AgentState { name: "agent-a".into(), problem: text(problem), kernel_off: text(kernel_off) }
}

fn cluster(text: &str) -> Installation {
    let outcomes = Kind::ALL.map(|kind| (Selection::all(kind), Listed::All)).to_vec();
    Installation {
        cluster: Some(Cluster {
            outcomes,
            deployments: Ok(vec![deployment(1, 1)]),
            replaced: Ok(Vec::new()),
        }),
        agents: Some(Ok(vec![agent(None, None)])),
        report: report(&snapshot(text), "forebay", true),
        ..folder(text)
    }
}

fn folder(text: &str) -> Installation {
    Installation {
        report: report(&snapshot(text), "forebay", false),
        snapshot: snapshot(text),
        class: "forebay".into(),
        agent_selector: "app.kubernetes.io/name=forebay-agent".parse().unwrap(),
        cluster: None,
        agents: None,
        endpoints: BTreeMap::new(),
    }
}

/// Changes the listing outcome of one kind.
fn outcome(mut installation: Installation, kind: Kind, outcome: &Listed) -> Installation {
    let outcomes = &mut installation.cluster.as_mut().unwrap().outcomes;
    for (selection, known) in outcomes.iter_mut().filter(|(selection, _)| selection.kind() == kind) {
        known.clone_from(outcome);
        if kind == Kind::Pod {
            // Pods of a namespace with pools; those of the agents stay known.
            *selection = Selection::in_namespace(kind, "llm-d");
        }
    }
    installation
}

/// Table lines of warnings and errors.
fn problems(installation: &Installation) -> Vec<String> {
    let findings: Vec<Finding> =
        findings(installation).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    finding::table(&findings).lines().skip(1).map(str::to_owned).collect()
}

/// The commands that the findings advise.
fn commands(installation: &Installation) -> Vec<String> {
    let fixes = findings(installation).into_iter().filter_map(|finding| finding.fix);
    fixes.filter_map(|fix| fix.command().map(str::to_owned)).collect()
}

/// Warnings and errors for VALID with one replacement, in a cluster.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(VALID.contains(from), "{from}");
    problems(&cluster(&VALID.replacen(from, to, 1)))
}

/// Asserts that there is exactly one line, with all parts.
fn only(lines: &[String], parts: &[&str]) {
    assert_eq!(lines.len(), 1, "{lines:#?}");
    has(lines, parts);
}

/// Asserts that a line has all parts.
fn has(lines: &[String], parts: &[&str]) {
    let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
    assert!(lines.iter().any(|line| fits(&line)), "{parts:?} in {lines:#?}");
}

#[test]
fn reports_nothing_for_valid_installation() {
    for installation in [cluster(VALID), folder(VALID)] {
        assert_eq!(problems(&installation), Vec::<String>::new());
    }
    let all = findings(&cluster(VALID));
    let table = finding::table(&all);
    for part in ["Kinds", "GatewayClass forebay", "Deployment forebay-system/forebay-gateway", "Agents"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    for part in ["Gateway infra/inference-gateway", "HTTPRoutes", "InferencePool llm-d/qwen", "Models"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let json = finding::json(&all);
    assert_eq!((&json["kind"], &json["items"][0]["level"]), (&json!("FindingList"), &json!("ok")));
    assert_eq!(crate::json_schema::validate(&json), Ok(()));
}

#[test]
fn every_warning_and_error_has_a_fix() {
    let empty = Installation { agents: None, ..cluster("") };
    let all: BTreeMap<String, Finding> =
        findings(&empty).into_iter().map(|finding| (format!("{:?}", finding.object), finding)).collect();
    assert!(all.values().any(|finding| finding.level == Level::Error), "{all:#?}");
    assert!(all.values().all(|finding| finding.level == Level::Ok || finding.fix.is_some()), "{all:#?}");
}
