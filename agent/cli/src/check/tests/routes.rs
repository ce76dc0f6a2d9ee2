//! HTTPRoutes and ReferenceGrants.

use super::*;

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
            "kubectl patch httproute qwen -n llm-d --type=json -p='[",
            r#"{"op":"test","path":"/spec/parentRefs/0/name","value":"inference-gateway"}"#,
            r#"{"op":"add","path":"/spec/parentRefs/0/namespace","value":"infra"}"#,
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
fn checks_route_conditions_and_references() {
    let accepted = r#"- { type: Accepted, status: "True", reason: Accepted }
    - { type: ResolvedRefs, status: "True", reason: ResolvedRefs }
---"#;
    let lines = changed(
        accepted,
        &accepted.replacen(r#""True", reason: Accepted"#, r#""False", reason: NotAllowedByListeners"#, 1),
    );
    only(
        &lines,
        &[
            "error",
            "HTTPRoute llm-d/qwen",
            "Accepted is False: NotAllowedByListeners",
            "kubernetes.io/metadata.name, or from: All",
        ],
    );
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
        &["error", "refers to InferencePool pools/qwen in another namespace", "| kubectl create -f -"],
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
fn attaches_by_command_only_if_no_other_route_can_lose_requests() {
    let unattached =
        VALID.replace("[{ name: inference-gateway, namespace: infra }]", "[{ name: inference-gateway }]");
    let patches = |text: &str| {
        let commands = commands(&cluster(text));
        commands.into_iter().filter(|it| it.contains("patch httproute")).collect::<Vec<_>>()
    };
    assert_eq!(patches(&unattached).len(), 1);
    let start = VALID.find("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute").unwrap();
    let end = start + VALID[start..].find("---").unwrap();
    let rival = VALID[start..end].replace("name: qwen, namespace: llm-d", "name: rival, namespace: llm-d");
    let text = format!("{unattached}---\n{rival}");
    assert_eq!(patches(&text), Vec::<String>::new());
    has(&problems(&cluster(&text)), &["HTTPRoute llm-d/rival", "matches the same requests"]);
    let other_model = format!("{unattached}---\n{}", rival.replace("value: Qwen/Qwen3-0.6B", "value: other"));
    assert_eq!(patches(&other_model).len(), 1);
    // Two Gateways of that name.
    let start = VALID.find("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n").unwrap();
    let end = start + VALID[start..].find("---").unwrap();
    let second = VALID[start..end].replace("namespace: infra", "namespace: edge");
    let text = format!("{unattached}---\n{second}");
    assert_eq!(patches(&text), Vec::<String>::new());
    has(
        &problems(&cluster(&text)),
        &["Gateways of that name: edge/inference-gateway, infra/inference-gateway", "the one that is meant"],
    );
}

#[test]
fn a_new_grant_never_replaces_one() {
    let across = VALID.replace("name: qwen }]", "name: qwen, namespace: pools }]");
    let taken = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: { name: llm-d-qwen, namespace: pools }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other }]
  to: [{ group: '', kind: Service }]
";
    let commands = commands(&cluster(&format!("{across}{taken}")));
    let create = commands.iter().find(|it| it.contains("ReferenceGrant")).unwrap();
    assert!(
        create.contains(r#""name":"llm-d-qwen-2""#) && create.ends_with("| kubectl create -f -"),
        "{create}"
    );
}
