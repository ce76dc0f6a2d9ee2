//! Policies that restrict access and are not supported: requests to their targets are rejected.

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::upstream::Upstream;

fn policy(namespace: &str, target: &str, field: &str) -> String {
    format!(
        "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
         metadata: {{name: keys, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{target}], traffic: {{{field}: {{mode: Strict}}}}}}\n"
    )
}

const FIELDS: [&str; 4] = ["apiKeyAuthentication", "jwtAuthentication", "authorization", "rateLimit"];

#[tokio::test]
async fn a_listener_with_an_unsupported_restriction_answers_nothing() {
    let upstream = Upstream::bind().await;
    for field in FIELDS {
        let target = "{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}";
        let running = Harness::new()
            .pool("qwen", QWEN, &[upstream.port()], None)
            .with(&policy("agentgateway-system", target, field))
            .start()
            .await;
        let chat = exchange(running.address(), post(&format!(r#"{{"model":"{QWEN}"}}"#))).await;
        let models = get(running.address(), "/v1/models").await;
        for response in [chat, models] {
            assert_eq!((response.status, response.code().as_str()), (403, "policy_not_enforced"), "{field}");
            assert!(response.text().contains(field), "{}", response.text());
        }
    }
}

#[tokio::test]
async fn a_pool_with_an_unsupported_restriction_closes_its_rules_only() {
    let (qwen, tiny) = (Upstream::bind().await, Upstream::bind().await);
    let target = "{group: inference.networking.k8s.io, kind: InferencePool, name: tiny}";
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port()], None)
        .pool("tiny", TINY, &[tiny.port()], None)
        .with(&policy("llm-d", target, "apiKeyAuthentication"))
        .start()
        .await;
    let closed = exchange(running.address(), post(&format!(r#"{{"model":"{TINY}"}}"#))).await;
    assert_eq!((closed.status, closed.code().as_str()), (403, "policy_not_enforced"));
    let request = post(&format!(r#"{{"model":"{QWEN}"}}"#));
    let (open, _) = tokio::join!(exchange(running.address(), request), qwen.answer_one("ok"));
    assert_eq!((open.status, open.text()), (200, "ok"));
}

#[tokio::test]
async fn copies_to_a_closed_service_are_not_sent() {
    let (web, shadow) = (Upstream::bind().await, Upstream::bind().await);
    let mirror =
        |name| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}");
    let rule = format!(
        "{{filters: [{}, {}], backendRefs: [{{name: web, port: 80}}]}}",
        mirror("shadow"),
        mirror("open")
    );
    let open = Upstream::bind().await;
    let running = Harness::new()
        .service("web", web.port(), "")
        .service("shadow", shadow.port(), "")
        .service("open", open.port(), "")
        .route("r", &rule)
        .with(&policy("llm-d", "{group: '', kind: Service, name: shadow}", "authorization"))
        .start()
        .await;
    let (response, _) = tokio::join!(get(running.address(), "/"), web.answer_one("ok"));
    assert_eq!((response.status, response.text()), (200, "ok"));
    open.answer_one("a copy").await;
    running.until_metric(r#"forebay_gateway_mirrors_total{result="closed"}"#, 1.0).await;
    running.until_metric(r#"forebay_gateway_mirrors_total{result="sent"}"#, 1.0).await;
}
