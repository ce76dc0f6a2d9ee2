//! Quotas.

use super::*;

fn quota(namespace: &str, target: &str, limits: &str) -> String {
    format!(
        "{VALID}\n---\napiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {{ name: team, namespace: {namespace} }}\n\
         spec: {{ targetRefs: [{{ group: gateway.networking.k8s.io, {target} }}], limits: [{limits}] }}\n"
    )
}

const GATEWAY: &str = "kind: Gateway, name: inference-gateway";
const REQUESTS: &str = "{ requests: 1, window: Day }";

#[test]
fn reports_quotas_that_close_what_they_target() {
    assert_eq!(problems(&cluster(&quota("infra", GATEWAY, REQUESTS))), Vec::<String>::new());
    for (namespace, target) in [("infra", GATEWAY), ("llm-d", "kind: HTTPRoute, name: qwen")] {
        let lines = problems(&cluster(&quota(namespace, target, "{ requests: 1 }")));
        only(&lines, &["error", &format!("Quota {namespace}/team"), "limits[0].window: must be set", "403"]);
    }
}

#[test]
fn reports_quotas_without_a_target() {
    let lines = problems(&cluster(&quota("llm-d", GATEWAY, REQUESTS)));
    only(
        &lines,
        &["warning", "Quota llm-d/team", "targets Gateway inference-gateway, which is not in its namespace"],
    );
}
