//! InferencePools.

use forebay_resources::ObjectKey;
use forebay_telemetry::v1::{Endpoint, EngineLoad, KernelLoad};

use super::*;

#[test]
fn names_pods_with_similar_labels_for_an_empty_pool() {
    let lines = changed("labels: { app: vllm-qwen3-06b }", "labels: { app: vllm-qwen }");
    only(
        &lines,
        &[
            "error",
            "InferencePool llm-d/qwen",
            "selects no Pod: its selector is app=vllm-qwen3-06b in namespace llm-d; Pods there have app=vllm-qwen (Pod qwen-0)",
            "deploy the model server there with the label app=vllm-qwen3-06b; if one of these Pods",
        ],
    );
    only(
        &changed("labels: { app: vllm-qwen3-06b }", "labels: { model: vllm-qwen3-06b }"),
        &["have model=vllm-qwen3-06b"],
    );
    only(
        &changed("labels: { app: vllm-qwen3-06b }", "labels: { x: y }"),
        &["none of the 1 other Pods there"],
    );
    only(
        &changed("namespace: llm-d, labels: { app", "namespace: other, labels: { app"),
        &["the namespace has no Pods"],
    );
}

/// The guide applies the pool first. The only pods are its picker's, and those of another model.
#[test]
fn never_proposes_pods_with_another_task_as_members() {
    let picker = r#"
---
apiVersion: v1
kind: Pod
metadata: { name: qwen-epp-1, namespace: llm-d, labels: { app: vllm-qwen3-06b-epp } }
status: { podIP: 10.0.0.9, conditions: [{ type: Ready, status: "True" }] }
"#;
    let other_model = r#"
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: qwen8, namespace: llm-d }
spec: { selector: { matchLabels: { app: vllm-qwen3-8b } }, targetPorts: [{ number: 8000 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: qwen8-0, namespace: llm-d, labels: { app: vllm-qwen3-8b } }
status: { podIP: 10.0.0.8, conditions: [{ type: Ready, status: "True" }] }
"#;
    let servers_later =
        VALID.replace("name: qwen-0, namespace: llm-d", "name: qwen-0, namespace: elsewhere").replace(
            "spec: { ports: [{ name: grpc",
            "spec: { selector: { app: vllm-qwen3-06b-epp }, ports: [{ name: grpc",
        );
    for (more, parts) in [
        (
            picker,
            vec!["the 1 Pods there have other tasks: qwen-epp-1 is an endpoint picker of InferencePool qwen"],
        ),
        (other_model, vec!["qwen8-0 is in InferencePool qwen8"]),
        // A server whose pool does not exist yet.
        (
            &other_model[other_model.find("---\napiVersion: v1\nkind: Pod").unwrap()..],
            vec!["app=vllm-qwen3-8b (Pod qwen8-0)"],
        ),
    ] {
        let installation = cluster(&format!("{servers_later}{more}"));
        let lines = problems(&installation);
        has(
            &lines,
            &[&["error", "InferencePool llm-d/qwen ", "deploy the model server there"][..], &parts].concat(),
        );
        let patches: Vec<String> =
            commands(&installation).into_iter().filter(|it| it.contains("patch")).collect();
        assert_eq!(patches, Vec::<String>::new(), "a selector that selects another model's pods");
    }
}

#[test]
fn reports_pools_that_select_the_same_pods() {
    let second = r#"
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: again, namespace: llm-d }
spec: { selector: { matchLabels: { app: vllm-qwen3-06b } }, targetPorts: [{ number: 8000 }] }
"#;
    for installation in [cluster(&format!("{VALID}{second}")), folder(&format!("{VALID}{second}"))] {
        let lines = problems(&installation);
        has(&lines, &["warning", "InferencePool llm-d/again", "that InferencePool llm-d/qwen selects too"]);
        has(&lines, &["warning", "InferencePool llm-d/qwen", "that InferencePool llm-d/again selects too"]);
    }
}

fn endpoint(engine_off: Option<&str>, responses: (u64, u64, u64)) -> Endpoint {
    let (responses_2xx, responses_4xx, responses_5xx) = responses;
    Endpoint {
        engine: engine_off.is_none().then(EngineLoad::default),
        engine_off: engine_off.map(str::to_owned),
        kernel: Some(KernelLoad { responses_2xx, responses_4xx, responses_5xx, ..KernelLoad::default() }),
        ..Endpoint::default()
    }
}

/// What `check` finds if the agent reports this of the pool's only pod.
fn reported(endpoint: Endpoint) -> Vec<Finding> {
    let mut installation = cluster(VALID);
    installation.endpoints.insert((ObjectKey::new("llm-d", "qwen-0"), 8000), endpoint);
    findings(&installation)
}

#[test]
fn a_ready_pod_that_cannot_be_scraped_is_a_warning() {
    let found = reported(endpoint(Some("/metrics: connection refused"), (1, 0, 0)));
    let finding = found.iter().find(|it| it.level == Level::Warning).unwrap();
    let expected = "1 of its Ready endpoints cannot be scraped (Pod qwen-0): /metrics: connection refused";
    assert_eq!((finding.message.as_str(), finding.object.kind.as_str()), (expected, "InferencePool"));
    assert!(!found.iter().any(|it| it.level == Level::Ok && it.object == finding.object), "{found:#?}");
}

#[test]
fn a_ready_pod_that_responds_with_errors_only_is_a_warning() {
    for responses in [(0, 0, 1), (0, 10, 0)] {
        let found = reported(endpoint(None, responses));
        let finding = found.iter().find(|it| it.level == Level::Warning).unwrap();
        assert_eq!(finding.object.key, ObjectKey::new("llm-d", "qwen-0"));
        assert!(finding.message.contains("responds with errors only"), "{}", finding.message);
        assert_eq!(
            finding.fix.as_ref().unwrap().command(),
            Some("kubectl logs -n llm-d qwen-0 --all-containers --tail=50")
        );
    }
    for responses in [(0, 0, 0), (1, 0, 9), (0, 1, 0)] {
        let found = reported(endpoint(None, responses));
        assert!(found.iter().all(|it| it.level == Level::Ok), "{responses:?}: {found:#?}");
    }
}

#[test]
fn says_what_is_not_known_of_ready_pods() {
    let message = |found: &[Finding]| {
        let of_pool = found.iter().find(|it| it.object.kind == "InferencePool").unwrap();
        of_pool.message.clone()
    };
    let unknown = message(&findings(&cluster(VALID)));
    assert!(unknown.contains("1 of 1 pods are Ready; metrics scraped at 0 endpoints"), "{unknown}");
    assert!(unknown.contains("1 not reported by an agent: whether they respond is not known"), "{unknown}");
    let known = message(&reported(endpoint(None, (3, 0, 0))));
    assert!(known.contains("metrics scraped at 1 endpoints, successful responses seen at 1"), "{known}");
    assert!(!known.contains("not known"), "{known}");
}

#[test]
fn checks_ready_pods_and_target_ports() {
    let ready = r#"podIP: 10.0.0.1, phase: Running, conditions: [{ type: Ready, status: "True" }]"#;
    only(
        &changed(ready, &ready.replace("True", "False")),
        &[
            "error",
            "none of the Pods that it selects is Ready",
            "kubectl describe pods -n llm-d -l app=vllm-qwen3-06b",
        ],
    );
    only(
        &changed("containerPort: 8000", "containerPort: 8080"),
        &["warning", "target port 8000 is not among the ports that its pods declare: 8080"],
    );
    assert_eq!(changed("ports: [{ containerPort: 8000 }]", "ports: []"), Vec::<String>::new());
    // llm-d's routing sidecar: an init container that runs next to the model server.
    let sidecar = |policy: &str| {
        format!(
            "containers: [{{ name: vllm, image: vllm, ports: [{{ containerPort: 8200 }}] }}], initContainers: [{{ name: proxy, \
             image: proxy, {policy}ports: [{{ containerPort: 8000 }}] }}] }}"
        )
    };
    let containers = "containers: [{ name: vllm, image: vllm, ports: [{ containerPort: 8000 }] }] }";
    assert_eq!(changed(containers, &sidecar("restartPolicy: Always, ")), Vec::<String>::new());
    only(&changed(containers, &sidecar("")), &["the ports that its pods declare: 8200"]);
}

#[test]
fn checks_picker_of_pool() {
    only(
        &changed("metadata: { name: qwen-epp,", "metadata: { name: epp,"),
        &["error", "Service llm-d/qwen-epp does not exist: requests get status 503"],
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
        &["error", "has no TCP port 9003; its ports are 9002"],
    );
    only(
        &changed("ready: true", "ready: false"),
        &["error", "has no ready endpoint", "kubectl describe service -n llm-d qwen-epp"],
    );
    let refused = Listed::Unknown("services is forbidden".into());
    let unknown = findings(&outcome(cluster(VALID), Kind::Service, &refused));
    let of_pool: Vec<&Finding> = unknown.iter().filter(|it| it.object.kind == "InferencePool").collect();
    assert_eq!((of_pool.len(), of_pool[0].level), (1, Level::NotChecked), "{of_pool:#?}");
}

#[test]
fn reports_a_picker_behind_the_wrong_port() {
    let pod = |port: u16| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: epp-1, namespace: llm-d, labels: {{ app: epp }} }}
spec: {{ containers: [{{ name: epp, image: epp, ports: [{{ containerPort: {port} }}] }}] }}
status: {{ podIP: 10.0.0.9, conditions: [{{ type: Ready, status: "True" }}] }}
"#
        )
    };
    let with = |target: &str, port: u16| {
        let service =
            format!("spec: {{ selector: {{ app: epp }}, ports: [{{ name: grpc, {target}port: 9002 }}] }}");
        let text = VALID.replacen("spec: { ports: [{ name: grpc, port: 9002 }] }", &service, 1);
        problems(&cluster(&(text + &pod(port))))
    };
    only(
        &with("targetPort: 9999, ", 9002),
        &["warning", "leads to port 9999, which its pods do not declare (9002)"],
    );
    only(&with("", 9003), &["warning", "leads to port 9002", "set targetPort of the Service"]);
    assert_eq!(with("", 9002), Vec::<String>::new());
    assert_eq!(with("targetPort: grpc, ", 9003), Vec::<String>::new());
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
