//! An installation in which all is well, and what is found when a part of it is not.

use std::collections::BTreeMap;

use forebay_resources::{
    Kind, Snapshot, Store,
    cluster::{Listed, Selection},
};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::{
    Finding, Installation, Level, finding, findings,
    installation::{AgentAnswer, Cluster},
};

/// The guide's, served.
const WELL: &str = r#"
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

/// With what every condition must have, and no test is about.
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

fn agent(problem: Option<&str>, kernel_off: Option<&str>) -> AgentAnswer {
    let text = |text: Option<&str>| text.map(str::to_owned);
    AgentAnswer { name: "agent-a".into(), problem: text(problem), kernel_off: text(kernel_off) }
}

fn cluster(text: &str) -> Installation {
    let outcomes = Kind::ALL.map(|kind| (Selection::all(kind), Listed::All)).to_vec();
    Installation {
        cluster: Some(Cluster { outcomes, deployments: Ok(vec![deployment(1, 1)]) }),
        agents: Some(Ok(vec![agent(None, None)])),
        ..folder(text)
    }
}

fn folder(text: &str) -> Installation {
    Installation {
        snapshot: snapshot(text),
        class: "forebay".into(),
        agent_selector: "app.kubernetes.io/name=forebay-agent".parse().unwrap(),
        cluster: None,
        agents: None,
    }
}

/// With the outcome of one kind changed.
fn outcome(mut installation: Installation, kind: Kind, outcome: &Listed) -> Installation {
    let outcomes = &mut installation.cluster.as_mut().unwrap().outcomes;
    for (selection, known) in outcomes.iter_mut().filter(|(selection, _)| selection.kind() == kind) {
        known.clone_from(outcome);
        if kind == Kind::Pod {
            // Of a namespace that has pools, as those of the agents are known.
            *selection = Selection::in_namespace(kind, "llm-d");
        }
    }
    installation
}

/// The lines of those that are not ok.
fn wrong(installation: &Installation) -> Vec<String> {
    let findings: Vec<Finding> =
        findings(installation).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    finding::table(&findings).lines().skip(1).map(str::to_owned).collect()
}

/// WELL with a change, in a cluster.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(WELL.contains(from), "{from}");
    wrong(&cluster(&WELL.replacen(from, to, 1)))
}

/// That one line, and no other, has all of these parts.
fn only(lines: &[String], parts: &[&str]) {
    assert_eq!(lines.len(), 1, "{lines:#?}");
    has(lines, parts);
}

/// That a line has all of these parts.
fn has(lines: &[String], parts: &[&str]) {
    let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
    assert!(lines.iter().any(|line| fits(&line)), "{parts:?} in {lines:#?}");
}

#[test]
fn nothing_is_wrong_where_all_is_well() {
    for installation in [cluster(WELL), folder(WELL)] {
        assert_eq!(wrong(&installation), Vec::<String>::new());
    }
    let all = findings(&cluster(WELL));
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
fn kinds_that_are_needed_are_missed_and_others_are_not() {
    let without = |kind| outcome(cluster(WELL), kind, &Listed::NotInstalled);
    let pools = wrong(&without(Kind::InferencePool));
    has(
        &pools,
        &["error", "inferencepools.inference.networking.k8s.io", "kubectl apply --server-side -f http"],
    );
    let grants = wrong(&without(Kind::ReferenceGrant));
    only(&grants, &["error", "referencegrants.gateway.networking.k8s.io", "standard-install.yaml"]);
    let policies = without(Kind::AgentgatewayPolicy);
    assert_eq!(wrong(&policies), Vec::<String>::new());
    let note = finding::table(&findings(&policies));
    assert!(note.contains("forebay crds agentgatewaypolicies | kubectl apply --server-side -f -"), "{note}");
}

#[test]
fn what_may_not_be_read_is_not_well() {
    let refused = Listed::Unknown("pods is forbidden".into());
    for kind in [Kind::HttpRoute, Kind::Gateway, Kind::InferencePool, Kind::AgentgatewayPolicy, Kind::Pod] {
        let mut installation = cluster(WELL);
        if kind != Kind::Pod {
            installation.snapshot = snapshot("");
        }
        let installation = outcome(installation, kind, &refused);
        has(&wrong(&installation), &["warning", "not checked: pods is forbidden", "`list`"]);
    }
    let no_pods = outcome(cluster(WELL), Kind::Pod, &refused);
    let all = finding::table(&findings(&no_pods));
    assert!(!all.contains("InferencePool llm-d/qwen"), "nothing is said of what is not known: {all}");

    let mut installation = cluster(WELL);
    installation.cluster.as_mut().unwrap().deployments = Err("deployments is forbidden".into());
    only(&wrong(&installation), &["warning", "not checked: deployments is forbidden"]);
    installation = cluster(WELL);
    installation.agents = Some(Err("pods/portforward is forbidden".into()));
    only(&wrong(&installation), &["warning", "not checked: whether they answer: pods/portforward"]);
}

#[test]
fn an_object_that_cannot_be_read_is_named() {
    let lines = changed("targetPorts: [{ number: 8000 }]", "targetPorts: [{ number: 70000 }]");
    has(&lines, &["error", "InferencePool llm-d/qwen", "spec.targetPorts[0].number"]);
}

#[test]
fn the_class_is_ours_and_accepted() {
    let lines = changed("metadata: { name: forebay }", "metadata: { name: other }");
    has(&lines, &["error", "GatewayClass forebay", "does not exist", "helm upgrade --install forebay"]);
    only(
        &changed("controllerName: forebay.dev/gateway }", "controllerName: example.com/x }"),
        &["error", "belongs to the controller example.com/x", "--gateway-class"],
    );
    let accepted = r#"[{ type: Accepted, status: "True", reason: Accepted }] }
---"#;
    let refused = r#"[{ type: Accepted, status: "False", reason: InvalidParameters, message: no }] }
---"#;
    only(&changed(accepted, refused), &["error", "Accepted is False: InvalidParameters: no"]);
    only(&changed(accepted, "[] }\n---"), &["error", "no condition Accepted yet", "kubectl logs"]);
}

#[test]
fn the_gateway_has_ready_replicas() {
    let with = |deployments| {
        let mut installation = cluster(WELL);
        installation.cluster.as_mut().unwrap().deployments = Ok(deployments);
        wrong(&installation)
    };
    only(&with(vec![]), &["error", "no Deployment has the label", "helm upgrade"]);
    only(&with(vec![deployment(2, 0)]), &["error", "0 of 2 replicas", "kubectl describe pods"]);
    only(&with(vec![deployment(2, 1)]), &["warning", "1 of 2 replicas"]);
}

#[test]
fn an_agent_is_on_every_node_that_has_pods_of_a_pool() {
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
fn agents_answer_and_count_in_the_kernel() {
    let with = |answer| wrong(&Installation { agents: Some(Ok(vec![answer])), ..cluster(WELL) });
    only(&with(agent(Some("no answer within 5s"), None)), &["error", "agent-a", "no answer within 5s"]);
    only(&with(agent(None, Some("no BTF"))), &["warning", "agent-a", "does not count in the kernel: no BTF"]);
}

#[test]
fn a_gateway_has_a_class_that_somebody_serves() {
    let lines = changed("gatewayClassName: forebay", "gatewayClassName: agentgateway-v2");
    has(
        &lines,
        &[
            "error",
            "has the class agentgateway-v2, which does not exist",
            r#"kubectl patch gateway inference-gateway -n infra --type=merge -p='{"spec":{"gatewayClassName":"forebay"}}'"#,
        ],
    );
    has(&lines, &["error", "Gateways", "none has the class forebay"]);
}

#[test]
fn a_gateway_is_programmed_and_has_an_address() {
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
fn the_guides_step_six_is_named_with_its_command() {
    let text = WELL
        .replace("[{ name: inference-gateway, namespace: infra }]", "[{ name: inference-gateway }]")
        .replace("attachedRoutes: 1", "attachedRoutes: 0");
    let lines = wrong(&cluster(&text));
    has(
        &lines,
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            "names Gateway llm-d/inference-gateway, which does not exist; there is infra/inference-gateway",
            r#"kubectl patch httproute qwen -n llm-d --type=json -p='[{"op":"add","path":"/spec/parentRefs/0/namespace","value":"infra"}]'"#,
        ],
    );
    has(
        &lines,
        &["warning", "listener http: no HTTPRoute is attached", "llm-d/qwen names it in another namespace"],
    );
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn a_listener_without_routes_says_why() {
    let none = WELL.replace("attachedRoutes: 1", "attachedRoutes: 0");
    let own_only = none.replace("{ from: All }", "{ from: Same }");
    only(
        &wrong(&cluster(&own_only)),
        &["warning", "its own namespace only", "allowedRoutes.namespaces.from: All"],
    );
    let to_service = none.replace(
        "group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]",
        "name: s, port: 80 }]",
    );
    let others = to_service
        .replace("[{ name: inference-gateway, namespace: infra }]", "[{ name: other, namespace: x }]");
    has(&wrong(&cluster(&others)), &["warning", "no HTTPRoute is attached: none names it"]);
}

#[test]
fn a_route_is_accepted_and_its_references_resolve() {
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
        &["error", "HTTPRoute llm-d/qwen", "said nothing of it at Gateway infra/inference-gateway"],
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
fn a_missing_grant_is_given_as_a_manifest() {
    let across = WELL.replace("name: qwen }]", "name: qwen, namespace: pools }]");
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: { name: g, namespace: pools }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: llm-d }]
  to: [{ group: inference.networking.k8s.io, kind: InferencePool }]
";
    let lines = wrong(&cluster(&across));
    has(
        &lines,
        &["error", "refers to InferencePool pools/qwen in another namespace", "| kubectl apply -f -"],
    );
    let line = lines.iter().find(|line| line.contains("echo '")).unwrap();
    let manifest = line.split('\'').nth(1).unwrap();
    for grant in [format!("\n---\n{manifest}"), grant.to_owned()] {
        let lines = wrong(&cluster(&format!("{across}{grant}")));
        assert!(lines.iter().all(|line| !line.contains("ReferenceGrant")), "{lines:#?}");
    }
    let other = format!("{across}{}", grant.replace("namespace: llm-d", "namespace: other"));
    has(&wrong(&cluster(&other)), &["no ReferenceGrant there allows it"]);
}

#[test]
fn a_pool_selects_pods_and_near_misses_are_shown() {
    let lines = changed("labels: { app: vllm-qwen3-06b }", "labels: { app: vllm-qwen }");
    only(
        &lines,
        &[
            "error",
            "InferencePool llm-d/qwen",
            "selects no Pod: it asks for app=vllm-qwen3-06b in namespace llm-d; Pods there have app=vllm-qwen ",
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
        &["no Pod is there at all"],
    );
}

#[test]
fn a_pool_has_a_ready_pod_and_a_port_that_its_pods_have() {
    let ready = r#"podIP: 10.0.0.1, phase: Running, conditions: [{ type: Ready, status: "True" }]"#;
    only(
        &changed(ready, &ready.replace("True", "False")),
        &["error", "none of its 1 pods is Ready", "kubectl describe pods -n llm-d -l app=vllm-qwen3-06b"],
    );
    only(
        &changed("containerPort: 8000", "containerPort: 8080"),
        &["warning", "target port 8000 is none of the ports that its pods declare: 8080"],
    );
    assert_eq!(changed("ports: [{ containerPort: 8000 }]", "ports: []"), Vec::<String>::new());
}

#[test]
fn a_pool_has_its_picker() {
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
        &["error", "has no port 9003, but 9002"],
    );
    only(
        &changed("ready: true", "ready: false"),
        &["error", "has no ready endpoint", "kubectl describe service"],
    );
}

#[test]
fn a_pool_has_a_route() {
    let lines = changed(
        "backendRefs: [{ group: inference.networking.k8s.io, kind: InferencePool, name: qwen }]",
        "backendRefs: [{ name: qwen, port: 80 }]",
    );
    only(&lines, &["warning", "InferencePool llm-d/qwen", "no HTTPRoute refers to it"]);
    let without = WELL.replace("kind: InferencePool\n", "kind: Nothing\n");
    has(&wrong(&cluster(&without)), &["warning", "InferencePools", "there is none"]);
}

#[test]
fn a_name_that_no_map_gives_is_compared_with_those_that_are_given() {
    let lines = changed("value: Qwen/Qwen3-0.6B", "value: qwen/qwen3-0.6b");
    only(
        &lines,
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            r#"matches base model "qwen/qwen3-0.6b", which no map gives"#,
            r#"did you mean "Qwen/Qwen3-0.6B" (of infra/bbr)?"#,
        ],
    );
    let other = changed("value: Qwen/Qwen3-0.6B", "value: mistral");
    only(&other, &[r#"add "mistral" to the map of AgentgatewayPolicy infra/bbr"#]);
    assert!(!other[0].contains("did you mean"), "{other:?}");
    // What a ConfigMap gives is given; and what is open to all names needs no map.
    let map = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: { name: m, namespace: llm-d, labels: { inference.networking.k8s.io/bbr-managed: "true" } }
data: { baseModel: mistral }
"#;
    let by_map = WELL.replace("value: Qwen/Qwen3-0.6B", "value: mistral") + map;
    assert_eq!(wrong(&cluster(&by_map)), Vec::<String>::new());
    let open = WELL
        .replace("value: Qwen/Qwen3-0.6B", "value: mistral")
        .replace("phase: PreRouting", "phase: PostRouting");
    assert_eq!(wrong(&cluster(&open)), Vec::<String>::new());
    // A listener's policy closes that listener alone.
    let listener = WELL.replace("value: Qwen/Qwen3-0.6B", "value: mistral").replace(
        "kind: Gateway, name: inference-gateway }",
        "kind: Gateway, name: inference-gateway, sectionName: http }",
    );
    assert_eq!(wrong(&cluster(&listener)), Vec::<String>::new());
}

#[test]
fn a_map_that_cannot_be_read_is_named() {
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
        &wrong(&cluster(&format!("{WELL}{map}"))),
        &["error", "ConfigMap llm-d/m", "data.baseModel is missing"],
    );
}

#[test]
fn every_finding_that_is_wrong_says_what_to_do() {
    let empty = Installation { agents: None, ..cluster("") };
    let all: BTreeMap<String, Finding> =
        findings(&empty).into_iter().map(|finding| (format!("{:?}", finding.place), finding)).collect();
    assert!(all.values().any(|finding| finding.level == Level::Error), "{all:#?}");
    assert!(all.values().all(|finding| finding.level == Level::Ok || finding.fix.is_some()), "{all:#?}");
}
