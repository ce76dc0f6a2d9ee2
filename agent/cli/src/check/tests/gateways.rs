//! Gateways and their listeners.

use super::*;

#[test]
fn reports_gateway_with_missing_class() {
    let lines = changed("gatewayClassName: forebay", "gatewayClassName: agentgateway-v2");
    has(
        &lines,
        &[
            "error",
            "has the class agentgateway-v2, which does not exist",
            "a controller has served it, and may do so still",
        ],
    );
    has(&lines, &["error", "Gateways", "no Gateway has the class forebay"]);
    // The API server's default status: no controller has taken it.
    let status = VALID.find("status:\n  addresses").unwrap();
    let end = status + VALID[status..].find("---").unwrap();
    let waiting = "status: { conditions: [{ type: Accepted, status: Unknown, reason: Pending }] }\n";
    let text = format!("{}{waiting}{}", &VALID[..status], &VALID[end..])
        .replace("gatewayClassName: forebay", "gatewayClassName: agentgateway-v2");
    let patch = r#"kubectl patch gateway inference-gateway -n infra --type=merge -p='{"spec":{"gatewayClassName":"forebay"}}'"#;
    assert!(commands(&cluster(&text)).contains(&patch.to_owned()));
}

#[test]
fn reports_conflicts_of_listeners() {
    let second =
        "allowedRoutes: { namespaces: { from: All } } }, { name: again, port: 8080, protocol: HTTP }]";
    let text = VALID.replacen("allowedRoutes: { namespaces: { from: All } } }]", second, 1);
    for installation in [cluster(&text), folder(&text)] {
        let lines = problems(&installation);
        for (listener, other) in [("http", "again"), ("again", "http")] {
            let conflict = format!(
                "listener {listener}: Conflicted is True: HostnameConflict: listener {other} of Gateway infra/inference-gateway"
            );
            has(&lines, &["error", "Gateway infra/inference-gateway", &conflict]);
        }
    }
    // Gateways of a folder share the ports of one machine.
    let start = VALID.find("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n").unwrap();
    let end = start + VALID[start..].find("---").unwrap();
    let other = VALID[start..end].replace("name: inference-gateway", "name: other");
    let two = format!("{VALID}---\n{other}");
    has(&problems(&folder(&two)), &["error", "Gateway infra/other", "Conflicted is True"]);
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
fn explains_listener_without_routes() {
    let none = VALID.replace("attachedRoutes: 1", "attachedRoutes: 0");
    let own_only = none.replace("{ from: All }", "{ from: Same }");
    let lines = problems(&cluster(&own_only));
    has(&lines, &["warning", "its own namespace only", "allow the namespace llm-d on the listener"]);
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
