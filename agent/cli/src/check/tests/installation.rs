//! Kinds, class, gateway Deployment and agents.

use super::*;

#[test]
fn reports_missing_required_kinds_only() {
    let without = |kind| outcome(cluster(VALID), kind, &Listed::NotInstalled);
    let pools = problems(&without(Kind::InferencePool));
    has(&pools, &["error", "inferencepools.inference.networking.k8s.io", "kubectl create -f http"]);
    let grants = problems(&without(Kind::ReferenceGrant));
    only(&grants, &["error", "referencegrants.gateway.networking.k8s.io", "standard-install.yaml"]);
    let policies = without(Kind::AgentgatewayPolicy);
    assert_eq!(problems(&policies), Vec::<String>::new());
    let note = finding::table(&findings(&policies));
    assert!(note.contains("forebay crds agentgatewaypolicies | kubectl create -f -"), "{note}");
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
    has(&lines, &["error", "GatewayClass forebay", "does not exist", "helm get values"]);
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
    only(&with(vec![]), &["error", "no Deployment has the label", "a part of Forebay is installed"]);
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
        &["warning", "no Pod has the label app.kubernetes.io/name=forebay-agent", "helm get values"],
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
fn says_how_to_install_only_where_nothing_is_installed() {
    let mut bare = cluster("");
    bare.cluster.as_mut().unwrap().deployments = Ok(Vec::new());
    let commands = commands(&bare);
    assert!(commands.iter().any(|it| it.starts_with("helm install forebay ")), "{commands:?}");
    assert!(!commands.iter().any(|it| it.contains("upgrade")), "would reset values: {commands:?}");
    // A part is there: a release exists, with values that a command would reset.
    for text in [cluster(VALID), outcome(cluster(VALID), Kind::AgentgatewayPolicy, &Listed::NotInstalled)] {
        let mut part = text;
        part.cluster.as_mut().unwrap().deployments = Ok(Vec::new());
        assert!(!super::commands(&part).iter().any(|it| it.contains("helm")));
    }
}

#[test]
fn what_was_not_listed_is_not_known() {
    let mut installation = cluster(VALID);
    let outcomes = &mut installation.cluster.as_mut().unwrap().outcomes;
    outcomes.retain(|(selection, _)| selection.kind() != Kind::InferencePool);
    assert!(!installation.knows(Kind::InferencePool, None));
    let table = finding::table(&findings(&installation));
    assert!(!table.contains("InferencePool llm-d/qwen"), "{table}");
    // The pods of the pools' namespaces are unknown, and so are the nodes on which agents must run.
    let refused = outcome(cluster(VALID), Kind::Pod, &Listed::Unknown("forbidden".into()));
    let table = finding::table(&findings(&refused));
    assert!(!table.contains("on every node"), "{table}");
}

#[test]
fn reports_pools_of_a_replaced_api_group() {
    let old = VALID.replacen(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool",
        "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferencePool",
        1,
    );
    has(
        &problems(&folder(&old)),
        &[
            "error",
            "InferencePool llm-d/qwen",
            "not served; use InferencePool of inference.networking.k8s.io/v1",
        ],
    );
    let group = "backendRefs: [{ group: inference.networking.";
    has(
        &changed(&format!("{group}k8s.io"), &format!("{group}x-k8s.io")),
        &["error", "HTTPRoute llm-d/qwen", "of the group inference.networking.x-k8s.io are not served"],
    );
    let mut forbidden = cluster(VALID);
    forbidden.cluster.as_mut().unwrap().replaced = Err("inferencepools is forbidden".into());
    only(&problems(&forbidden), &["not-checked", "objects of inference.networking.x-k8s.io"]);
}
