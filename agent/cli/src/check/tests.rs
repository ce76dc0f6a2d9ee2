//! A valid installation, and the findings for one fault at a time.

mod agreement;

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
        cluster: Some(Cluster { outcomes, deployments: Ok(vec![deployment(1, 1)]) }),
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
}

#[test]
fn reports_missing_required_kinds_only() {
    let without = |kind| outcome(cluster(VALID), kind, &Listed::NotInstalled);
    let pools = problems(&without(Kind::InferencePool));
    has(
        &pools,
        &["error", "inferencepools.inference.networking.k8s.io", "kubectl apply --server-side -f http"],
    );
    let grants = problems(&without(Kind::ReferenceGrant));
    only(&grants, &["error", "referencegrants.gateway.networking.k8s.io", "standard-install.yaml"]);
    let policies = without(Kind::AgentgatewayPolicy);
    assert_eq!(problems(&policies), Vec::<String>::new());
    let note = finding::table(&findings(&policies));
    assert!(note.contains("forebay crds agentgatewaypolicies | kubectl apply --server-side -f -"), "{note}");
}

#[test]
fn never_reports_ok_for_unreadable_kinds() {
    let refused = Listed::Unknown("pods is forbidden".into());
    for kind in [Kind::HttpRoute, Kind::Gateway, Kind::InferencePool, Kind::AgentgatewayPolicy, Kind::Pod] {
        let mut installation = cluster(VALID);
        if kind != Kind::Pod {
            installation.snapshot = snapshot("");
        }
        let installation = outcome(installation, kind, &refused);
        has(&problems(&installation), &["not-checked", "not checked: pods is forbidden", "`list`"]);
    }
    let no_pods = outcome(cluster(VALID), Kind::Pod, &refused);
    let all = finding::table(&findings(&no_pods));
    assert!(!all.contains("InferencePool llm-d/qwen"), "unknown state must not be reported: {all}");

    let mut installation = cluster(VALID);
    installation.cluster.as_mut().unwrap().deployments = Err("deployments is forbidden".into());
    only(&problems(&installation), &["not-checked", "not checked: deployments is forbidden"]);
    installation = cluster(VALID);
    installation.agents = Some(Err("pods/portforward is forbidden".into()));
    only(&problems(&installation), &["not-checked", "not checked: reachability: pods/portforward"]);
}

#[test]
fn names_invalid_objects() {
    let lines = changed("targetPorts: [{ number: 8000 }]", "targetPorts: [{ number: 70000 }]");
    has(&lines, &["error", "InferencePool llm-d/qwen", "spec.targetPorts[0].number"]);
}

#[test]
fn checks_class_controller_and_acceptance() {
    let lines = changed("metadata: { name: forebay }", "metadata: { name: other }");
    has(&lines, &["error", "GatewayClass forebay", "does not exist", "helm upgrade --install forebay"]);
    only(
        &changed("controllerName: forebay.dev/gateway }", "controllerName: example.com/x }"),
        &["error", "has the controllerName example.com/x", "--gateway-class"],
    );
    let accepted = r#"[{ type: Accepted, status: "True", reason: Accepted }] }
---"#;
    let refused = r#"[{ type: Accepted, status: "False", reason: InvalidParameters, message: no }] }
---"#;
    only(&changed(accepted, refused), &["error", "Accepted is False: InvalidParameters: no"]);
    only(&changed(accepted, "[] }\n---"), &["error", "condition Accepted is not set yet", "kubectl logs"]);
}

#[test]
fn checks_gateway_replicas() {
    let with = |deployments| {
        let mut installation = cluster(VALID);
        installation.cluster.as_mut().unwrap().deployments = Ok(deployments);
        problems(&installation)
    };
    only(&with(vec![]), &["error", "no Deployment has the label", "helm upgrade"]);
    only(&with(vec![deployment(2, 0)]), &["error", "0 of 2 replicas", "kubectl describe pods"]);
    only(&with(vec![deployment(2, 1)]), &["warning", "1 of 2 replicas"]);
}

#[test]
fn checks_agents_on_nodes_with_pool_pods() {
    let agent_on_a = "name: forebay-agent } }\nspec: { nodeName: node-a";
    let elsewhere = "name: forebay-agent } }\nspec: { nodeName: node-b";
    only(
        &changed(agent_on_a, elsewhere),
        &["error", "Node node-a", "runs 1 pods of InferencePools and no agent"],
    );
    only(
        &changed("labels: { app.kubernetes.io/name: forebay-agent }", "labels: { app: x }"),
        &["warning", "no Pod has the label app.kubernetes.io/name=forebay-agent", "helm upgrade"],
    );
    let ready = r#"podIP: 10.0.0.2, phase: Running, conditions: [{ type: Ready, status: "True" }]"#;
    only(
        &changed(ready, &ready.replace("True", "False")),
        &["error", "Pod forebay-system/agent-a", "not Ready", "kubectl logs -n forebay-system agent-a"],
    );
}

#[test]
fn checks_agent_reachability_and_kernel_counting() {
    let with = |answer| problems(&Installation { agents: Some(Ok(vec![answer])), ..cluster(VALID) });
    only(&with(agent(Some("no answer within 5s"), None)), &["error", "agent-a", "no answer within 5s"]);
    only(&with(agent(None, Some("no BTF"))), &["warning", "agent-a", "does not count in the kernel: no BTF"]);
}

#[test]
fn reports_gateway_with_missing_class() {
    let lines = changed("gatewayClassName: forebay", "gatewayClassName: agentgateway-v2");
    has(
        &lines,
        &[
            "error",
            "has the class agentgateway-v2, which does not exist",
            r#"kubectl patch gateway inference-gateway -n infra --type=merge -p='{"spec":{"gatewayClassName":"forebay"}}'"#,
        ],
    );
    has(&lines, &["error", "Gateways", "no Gateway has the class forebay"]);
}

#[test]
fn checks_gateway_conditions_and_address() {
    let programmed = r#"- { type: Programmed, status: "True", reason: Programmed }
  listeners"#;
    only(
        &changed(
            programmed,
            &programmed.replace(r#""True", reason: Programmed"#, r#""False", reason: AddressNotAssigned"#),
        ),
        &["error", "Gateway infra/inference-gateway", "Programmed is False: AddressNotAssigned"],
    );
    only(&changed("addresses: [{ value: 10.96.0.7 }]", "addresses: []"), &["warning", "has no address"]);
    let resolved = r#"- { type: ResolvedRefs, status: "True", reason: ResolvedRefs }
    - { type: Programmed"#;
    only(
        &changed(
            resolved,
            &resolved.replace(r#""True", reason: ResolvedRefs"#, r#""False", reason: InvalidCertificateRef"#),
        ),
        &["error", "listener http: ResolvedRefs is False: InvalidCertificateRef"],
    );
}

#[test]
fn reports_parent_ref_without_namespace_with_command() {
    let text = VALID
        .replace("[{ name: inference-gateway, namespace: infra }]", "[{ name: inference-gateway }]")
        .replace("attachedRoutes: 1", "attachedRoutes: 0");
    let lines = problems(&cluster(&text));
    has(
        &lines,
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            "names Gateway llm-d/inference-gateway, which does not exist; infra/inference-gateway does",
            r#"kubectl patch httproute qwen -n llm-d --type=json -p='[{"op":"add","path":"/spec/parentRefs/0/namespace","value":"infra"}]'"#,
        ],
    );
    has(
        &lines,
        &[
            "warning",
            "listener http: no HTTPRoute is attached",
            "HTTPRoute llm-d/qwen names a Gateway inference-gateway in another namespace",
        ],
    );
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn explains_listener_without_routes() {
    let none = VALID.replace("attachedRoutes: 1", "attachedRoutes: 0");
    let own_only = none.replace("{ from: All }", "{ from: Same }");
    let lines = problems(&cluster(&own_only));
    has(&lines, &["warning", "its own namespace only", "allowedRoutes.namespaces.from: All"]);
    has(&lines, &["error", "HTTPRoute llm-d/qwen", "NotAllowedByListeners"]);
    has(&lines, &["warning", "InferencePool llm-d/qwen", "is accepted by the Gateway"]);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let to_service = none.replace(
        "group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]",
        "name: s, port: 80 }]",
    );
    let others = to_service
        .replace("[{ name: inference-gateway, namespace: infra }]", "[{ name: other, namespace: x }]");
    has(
        &problems(&cluster(&others)),
        &["warning", "no HTTPRoute is attached: no HTTPRoute names this Gateway"],
    );
}

#[test]
fn checks_route_conditions_and_references() {
    let accepted = r#"- { type: Accepted, status: "True", reason: Accepted }
    - { type: ResolvedRefs, status: "True", reason: ResolvedRefs }
---"#;
    let lines = changed(
        accepted,
        &accepted.replacen(r#""True", reason: Accepted"#, r#""False", reason: NotAllowedByListeners"#, 1),
    );
    only(&lines, &["error", "HTTPRoute llm-d/qwen", "Accepted is False: NotAllowedByListeners", "from: All"]);
    only(
        &changed("- controllerName: forebay.dev/gateway", "- controllerName: example.com/x"),
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            "has no status of forebay.dev/gateway for Gateway infra/inference-gateway yet",
        ],
    );
    has(
        &changed("kind: InferencePool, name: qwen }]", "kind: InferencePool, name: qwem }]"),
        &["error", "refers to InferencePool llm-d/qwem, which does not exist", "llm-d/qwen?"],
    );
    has(
        &changed("[{ name: inference-gateway, namespace: infra }]", "[{ name: gateway, namespace: infra }]"),
        &["error", "names Gateway infra/gateway, which does not exist", "infra/inference-gateway?"],
    );
    has(
        &changed("parentRefs: [{ name: inference-gateway, namespace: infra }]", "parentRefs: []"),
        &["error", "names no Gateway"],
    );
}

#[test]
fn prints_missing_reference_grant_as_manifest() {
    let across = VALID.replace("name: qwen }]", "name: qwen, namespace: pools }]");
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: { name: g, namespace: pools }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: llm-d }]
  to: [{ group: inference.networking.k8s.io, kind: InferencePool }]
";
    let lines = problems(&cluster(&across));
    has(
        &lines,
        &["error", "refers to InferencePool pools/qwen in another namespace", "| kubectl apply -f -"],
    );
    let line = lines.iter().find(|line| line.contains("echo '")).unwrap();
    let manifest = line.split('\'').nth(1).unwrap();
    for grant in [format!("\n---\n{manifest}"), grant.to_owned()] {
        let lines = problems(&cluster(&format!("{across}{grant}")));
        assert!(lines.iter().all(|line| !line.contains("ReferenceGrant")), "{lines:#?}");
    }
    let other = format!("{across}{}", grant.replace("namespace: llm-d", "namespace: other"));
    has(&problems(&cluster(&other)), &["no ReferenceGrant there allows it"]);
}

#[test]
fn suggests_similar_labels_for_empty_pool() {
    let lines = changed("labels: { app: vllm-qwen3-06b }", "labels: { app: vllm-qwen }");
    only(
        &lines,
        &[
            "error",
            "InferencePool llm-d/qwen",
            "selects no Pod: its selector is app=vllm-qwen3-06b in namespace llm-d; Pods there have app=vllm-qwen ",
            r#"-p='{"spec":{"selector":{"matchLabels":{"app":"vllm-qwen"}}}}'"#,
        ],
    );
    only(
        &changed("labels: { app: vllm-qwen3-06b }", "labels: { model: vllm-qwen3-06b }"),
        &["have model=vllm-qwen3-06b"],
    );
    only(&changed("labels: { app: vllm-qwen3-06b }", "labels: { x: y }"), &["none of the 1 Pods there"]);
    only(
        &changed("namespace: llm-d, labels: { app", "namespace: other, labels: { app"),
        &["the namespace has no Pods"],
    );
}

#[test]
fn checks_ready_pods_and_target_ports() {
    let ready = r#"podIP: 10.0.0.1, phase: Running, conditions: [{ type: Ready, status: "True" }]"#;
    only(
        &changed(ready, &ready.replace("True", "False")),
        &["error", "none of its 1 pods is Ready", "kubectl describe pods -n llm-d -l app=vllm-qwen3-06b"],
    );
    only(
        &changed("containerPort: 8000", "containerPort: 8080"),
        &["warning", "target port 8000 is not among the ports that its pods declare: 8080"],
    );
    assert_eq!(changed("ports: [{ containerPort: 8000 }]", "ports: []"), Vec::<String>::new());
}

#[test]
fn checks_picker_of_pool() {
    only(
        &changed("metadata: { name: qwen-epp,", "metadata: { name: epp,"),
        &["error", "Service llm-d/qwen-epp does not exist: requests get 503"],
    );
    only(
        &changed(
            "name: qwen-epp, port: { number: 9002 } }",
            "name: epp, failureMode: FailOpen, port: { number: 9002 } }",
        ),
        &["warning", "Service llm-d/epp does not exist", "FailOpen"],
    );
    only(
        &changed("port: { number: 9002 }", "port: { number: 9003 }"),
        &["error", "has no port 9003; its ports are 9002"],
    );
    only(
        &changed("ready: true", "ready: false"),
        &["error", "has no ready endpoint", "kubectl describe service"],
    );
}

#[test]
fn checks_routes_of_pool() {
    let lines = changed(
        "backendRefs: [{ group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]",
        "backendRefs: [{ name: qwen, port: 80 }]",
    );
    has(&lines, &["warning", "InferencePool llm-d/qwen", "no HTTPRoute refers to it"]);
    has(&lines, &["error", "HTTPRoute llm-d/qwen", "BackendNotFound", "the Service does not exist"]);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let without = VALID.replace("kind: InferencePool\n", "kind: Nothing\n");
    has(&problems(&cluster(&without)), &["warning", "InferencePools", "no InferencePool exists"]);
}

#[test]
fn reports_policies_that_close_what_they_target() {
    let field = "    phase: PreRouting\n    apiKeyAuthentication: { secretRef: { name: keys } }\n";
    only(
        &changed("    phase: PreRouting\n", field),
        &["error", "AgentgatewayPolicy infra/bbr", "traffic.apiKeyAuthentication", "403", "remove the field"],
    );
    let of_pool = r#"
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: { name: keys, namespace: llm-d }
spec:
  targetRefs: [{ group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]
  traffic: { authorization: { action: Deny } }
"#;
    only(
        &problems(&cluster(&(VALID.to_owned() + of_pool))),
        &["error", "AgentgatewayPolicy llm-d/keys", "traffic.authorization", "403", "remove the field"],
    );
}

#[test]
fn suggests_similar_model_for_unmapped_base_model() {
    let lines = changed("value: Qwen/Qwen3-0.6B", "value: qwen/qwen3-0.6b");
    only(
        &lines,
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            r#"matches base model "qwen/qwen3-0.6b", which no model map lists"#,
            r#"did you mean "Qwen/Qwen3-0.6B" (of infra/bbr)?"#,
        ],
    );
    let other = changed("value: Qwen/Qwen3-0.6B", "value: mistral");
    only(&other, &[r#"add "mistral" to the map of AgentgatewayPolicy infra/bbr"#]);
    assert!(!other[0].contains("did you mean"), "{other:?}");
    // A ConfigMap extends the map. An open map admits every name.
    let map = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: { name: m, namespace: llm-d, labels: { inference.networking.k8s.io/bbr-managed: "true" } }
data: { baseModel: mistral }
"#;
    let by_map = VALID.replace("value: Qwen/Qwen3-0.6B", "value: mistral") + map;
    assert_eq!(problems(&cluster(&by_map)), Vec::<String>::new());
    let open = VALID
        .replace("value: Qwen/Qwen3-0.6B", "value: mistral")
        .replace("phase: PreRouting", "phase: PostRouting");
    only(
        &problems(&cluster(&open)),
        &["error", "AgentgatewayPolicy infra/bbr", "phase is not PreRouting", "set phase: PreRouting"],
    );
    // A policy for one listener closes the map of that listener only.
    let section = |name: &str| {
        let target = format!("kind: Gateway, name: inference-gateway, sectionName: {name} }}");
        VALID
            .replace("value: Qwen/Qwen3-0.6B", "value: mistral")
            .replace("kind: Gateway, name: inference-gateway }", &target)
    };
    has(&problems(&cluster(&section("http"))), &[r#"matches base model "mistral""#]);
    assert_eq!(problems(&cluster(&section("another"))), Vec::<String>::new());
}

#[test]
fn names_invalid_model_maps() {
    has(
        &changed("[json(request.body).model]'", "[json(request.body).user]'"),
        &["error", "AgentgatewayPolicy infra/bbr", "expected `model`"],
    );
    has(
        &changed("kind: Gateway, name: inference-gateway }", "kind: Gateway, name: gateway }"),
        &[
            "warning",
            "AgentgatewayPolicy infra/bbr",
            "targets Gateway gateway, which is not in its namespace",
        ],
    );
    let map = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: { name: m, namespace: llm-d, labels: { inference.networking.k8s.io/bbr-managed: "true" } }
data: { adapters: "- a" }
"#;
    only(
        &problems(&cluster(&format!("{VALID}{map}"))),
        &["error", "ConfigMap llm-d/m", "data.baseModel is missing"],
    );
}

#[test]
fn every_warning_and_error_has_a_fix() {
    let empty = Installation { agents: None, ..cluster("") };
    let all: BTreeMap<String, Finding> =
        findings(&empty).into_iter().map(|finding| (format!("{:?}", finding.object), finding)).collect();
    assert!(all.values().any(|finding| finding.level == Level::Error), "{all:#?}");
    assert!(all.values().all(|finding| finding.level == Level::Ok || finding.fix.is_some()), "{all:#?}");
}
