//! Authorization rules.

use super::*;

#[tokio::test]
async fn a_key_is_for_its_models_only() {
    let (mut qwen, mut tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let running = door(&qwen, &tiny, &format!("{}, {BY_MODEL}", keys(""))).start().await;
    for (key, model, expected) in [
        (SALES, QWEN, is(200, "-")),
        (SALES, TINY, is(403, "permission_denied")),
        (LABS, TINY, is(200, "-")),
        ("k-other", TINY, is(401, "invalid_api_key")),
    ] {
        let response = ask(running.address(), &bearer(key), model).await;
        assert_eq!(outcome(&response), expected, "{key} {model}");
    }
    assert_eq!((qwen.seen().len(), tiny.seen().len()), (1, 1));
    // Nothing says that one of them exists.
    let [denied, unknown] = [TINY, "no-such-model"].map(|model| (running.address(), model));
    let denied = ask(denied.0, &bearer(SALES), denied.1).await;
    let unknown = ask(unknown.0, &bearer(SALES), unknown.1).await;
    assert_eq!((denied.status, denied.text()), (unknown.status, unknown.text()));
}

#[tokio::test]
async fn rules_read_the_request_and_the_address() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    for (action, expression, status) in [
        ("Allow", "request.path == '/v1/chat/completions' && request.method == 'POST'", 200),
        ("Allow", "request.host == 'models.example'", 200),
        ("Allow", "request.headers['x-team'] == 'a'", 200),
        ("Allow", "source.address == '127.0.0.1'", 200),
        ("Allow", "apiKey.name == 'sales'", 200),
        ("Allow", "apiKey.group == 'labs'", 403),
        ("Deny", "apiKey.group == 'labs'", 200),
        ("Deny", "apiKey.no_such_member == 'x'", 403),
        ("Require", "apiKey.no_such_member == 'x'", 403),
        ("Allow", "has(request.headers.authorization)", 403),
    ] {
        let rule =
            format!("authorization: {{action: {action}, policy: {{matchExpressions: [\"{expression}\"]}}}}");
        let running = door(&qwen, &tiny, &format!("{}, {rule}", keys(""))).start().await;
        let headers = bearer(SALES) + "x-team: a\r\n";
        assert_eq!(ask(running.address(), &headers, QWEN).await.status, status, "{action} {expression}");
    }
}

#[tokio::test]
async fn an_expression_that_does_not_compile_closes() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let rule = "authorization: {policy: {matchExpressions: ['llm.model ==']}}";
    let running = door(&qwen, &tiny, &format!("{}, {rule}", keys(""))).start().await;
    let response = ask(running.address(), &bearer(SALES), QWEN).await;
    assert_eq!(outcome(&response), is(403, "policy_not_enforced"));
    assert!(!response.text().contains("llm.model"), "{}", response.text());
    assert!(qwen.seen().is_empty());
}

/// A rule of a route does not show whether a model exists.
#[tokio::test]
async fn a_rule_of_a_route_hides_its_model() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tiny}";
    let rule = "authorization: {policy: {matchExpressions: [\"apiKey.group == 'labs'\"]}}";
    let running =
        door(&qwen, &tiny, &keys("")).with(&policy("llm-d", "labs-only", route, rule)).start().await;
    assert_eq!(ask(running.address(), &bearer(LABS), TINY).await.status, 200);
    let denied = ask(running.address(), &bearer(SALES), TINY).await;
    let unknown = ask(running.address(), &bearer(SALES), "no-such-model").await;
    assert_eq!(outcome(&denied), is(403, "permission_denied"));
    assert_eq!((denied.status, denied.text()), (unknown.status, unknown.text()));
}
