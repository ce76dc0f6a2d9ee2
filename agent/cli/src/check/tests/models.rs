//! Model maps and policies.

use super::*;

#[test]
fn reports_policies_that_close_what_they_target() {
    let field = "    phase: PreRouting\n    jwtAuthentication: { mode: Strict }\n";
    only(
        &changed("    phase: PreRouting\n", field),
        &[
            "error",
            "AgentgatewayPolicy infra/bbr",
            "traffic.jwtAuthentication",
            "403",
            "protect the target in another way",
        ],
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
        &[
            "error",
            "AgentgatewayPolicy llm-d/keys",
            "traffic.authorization",
            "403",
            "protect the target in another way",
        ],
    );
}

#[test]
fn reports_fields_of_policies_without_effect() {
    let field = "    phase: PreRouting\n    timeouts: { request: 1s }\n";
    let no_effect = ["warning", "traffic.timeouts is not supported and has no effect", "do not rely on it"];
    only(&changed("    phase: PreRouting\n", field), &no_effect);
    for (group, kind) in
        [("inference.networking.k8s.io", "InferencePool"), ("gateway.networking.k8s.io", "HTTPRoute")]
    {
        let policy = format!(
            r#"
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{ name: slow, namespace: llm-d }}
spec:
  targetRefs: [{{ group: {group}, kind: {kind}, name: qwen }}]
  traffic: {{ timeouts: {{ request: 1s }} }}
"#
        );
        let lines = problems(&cluster(&(VALID.to_owned() + &policy)));
        only(&lines, &no_effect);
        only(&lines, &["AgentgatewayPolicy llm-d/slow"]);
    }
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
    for (group, kind) in
        [("inference.networking.k8s.io", "InferencePool"), ("gateway.networking.k8s.io", "HTTPRoute")]
    {
        let target = format!("group: {group}, kind: {kind}, name: missing }}]\n  traffic:");
        has(
            &changed(
                "group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway }]\n  traffic:",
                &target,
            ),
            &[
                "warning",
                "AgentgatewayPolicy infra/bbr",
                &format!("targets {kind} missing, which is not in its namespace"),
            ],
        );
    }
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
