//! HTTPRoute filters.

use crate::support::client::{exchange, get};
use crate::support::harness::{Harness, Running};
use crate::support::until;
use crate::support::upstream::Upstream;

async fn harness(web: &Upstream, rule: &str) -> Running {
    Harness::new().service("web", web.port(), "").route("r", rule).start().await
}

#[tokio::test]
async fn header_filters_of_rule_and_backend_apply() {
    let web = Upstream::bind().await;
    let rule = "{filters: [\
        {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: rule}], remove: [x-b], add: [{name: x-c, value: rule}]}},\
        {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-r, value: rule}], remove: [server]}}],\
        backendRefs: [{name: web, port: 80, filters: [\
        {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-d, value: backend}]}},\
        {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-r, value: backend}, {name: x-s, value: backend}]}}]}]}";
    let running = harness(&web, rule).await;
    let pod = async {
        let mut pod = web.accept().await;
        let request = pod.read_request().await;
        pod.write("HTTP/1.1 200 OK\r\nserver: x\r\nx-r: pod\r\ncontent-length: 0\r\n\r\n").await;
        request
    };
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-a: client\r\nx-b: client\r\n\r\n";
    let (response, request) = tokio::join!(exchange(running.address(), request), pod);
    let sent = ["x-a", "x-b", "x-c", "x-d"].map(|name| request.header(name));
    assert_eq!(sent, [Some("rule"), None, Some("rule"), Some("backend")]);
    let got = ["server", "x-r", "x-s"].map(|name| response.head.header(name));
    assert_eq!(got, [None, Some("rule"), Some("backend")]);
}

#[tokio::test]
async fn rewrites_paths_and_hosts() {
    let web = Upstream::bind().await;
    let rule = "{matches: [{path: {value: /team}}], filters: [{type: URLRewrite, urlRewrite: \
        {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}], \
        backendRefs: [{name: web, port: 80}]}";
    let running = harness(&web, rule).await;
    let (_, request) = tokio::join!(get(running.address(), "/team/chat?q=1"), web.answer_one("ok"));
    assert_eq!(request.line, "GET /v1/chat?q=1 HTTP/1.1");
    assert_eq!(request.header("host"), Some("inner.example"));
}

#[tokio::test]
async fn the_gateway_answers_redirects() {
    let web = Upstream::bind().await;
    let rule = "{matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: \
        {scheme: https, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}";
    let running = harness(&web, rule).await;
    let response = get(running.address(), "/old/x?q=1").await;
    assert_eq!(response.status, 308);
    assert_eq!(response.head.header("location"), Some("https://models.example/new/x?q=1"));
}

#[tokio::test]
async fn an_unknown_filter_makes_the_rule_fail() {
    let web = Upstream::bind().await;
    let rule = "{filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Auth, name: a}}], \
        backendRefs: [{name: web, port: 80}]}";
    let running = harness(&web, rule).await;
    let response = get(running.address(), "/").await;
    assert_eq!((response.status, response.code().as_str()), (500, "backend_unresolved"));
}

#[tokio::test]
async fn sends_copies_to_mirrors() {
    let (web, shadow) = (Upstream::bind().await, Upstream::bind().await);
    let rule = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}, \
        {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 0}}], \
        backendRefs: [{name: web, port: 80}]}";
    let running = Harness::new()
        .service("web", web.port(), "")
        .service("shadow", shadow.port(), "")
        .route("r", rule)
        .start()
        .await;
    let request = "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    let (response, request) = tokio::join!(exchange(running.address(), request), web.answer_one("ok"));
    assert_eq!((response.text(), request.text()), ("ok", "body"));
    let copy = shadow.answer_one("not read by a client").await;
    assert_eq!((copy.line.as_str(), copy.text()), ("POST /p HTTP/1.1", "body"));
    running.until_metric(r#"forebay_gateway_mirrors_total{result="sent"}"#, 1.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn an_unreachable_mirror_does_not_affect_the_request() {
    let web = Upstream::bind().await;
    let closed = Upstream::bind().await.port();
    let rule = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}], \
        backendRefs: [{name: web, port: 80}]}";
    let running = Harness::new()
        .service("web", web.port(), "")
        .service("shadow", closed, "")
        .route("r", rule)
        .start()
        .await;
    let (response, _) = tokio::join!(get(running.address(), "/"), web.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    running.until_metric(r#"forebay_gateway_mirrors_total{result="failed"}"#, 1.0).await;
}

#[tokio::test]
async fn cors() {
    let web = Upstream::bind().await;
    let rule = "{filters: [{type: CORS, cors: {allowOrigins: ['https://app.example'], allowMethods: [POST], \
        exposeHeaders: [x-id]}}], backendRefs: [{name: web, port: 80}]}";
    let running = harness(&web, rule).await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /v1/x HTTP/1.1\r\nhost: a\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\r\n"
        )
    };
    let response = exchange(running.address(), preflight("https://app.example")).await;
    assert_eq!(response.status, 204);
    assert_eq!(response.head.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(response.head.header("access-control-allow-methods"), Some("POST"));
    let response = exchange(running.address(), preflight("https://other.example")).await;
    assert_eq!(response.head.header("access-control-allow-origin"), None);

    let request =
        "POST /v1/x HTTP/1.1\r\nhost: a\r\norigin: https://app.example\r\ncontent-length: 0\r\n\r\n";
    let (response, _) = tokio::join!(exchange(running.address(), request), web.answer_one("ok"));
    assert_eq!(response.head.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(response.head.header("access-control-expose-headers"), Some("x-id"));
}

#[tokio::test]
async fn unsupported_rules_are_not_served() {
    let web = Upstream::bind().await;
    let bad = "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}], \
        backendRefs: [{name: web, port: 80}]}";
    let running = harness(&web, bad).await;
    until("the route to be refused", || async {
        (get(running.address(), "/").await.status == 404).then_some(())
    })
    .await;
}

/// A preflight has no body and therefore no model, but may ask for a route that matches a model.
#[tokio::test]
async fn answers_a_preflight_for_a_route_by_model() {
    let web = Upstream::bind().await;
    let rule = "{matches: [{path: {value: /v1}, headers: [{name: X-Gateway-Base-Model-Name, value: m}]}], \
        filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: [POST]}}], backendRefs: [{name: web, port: 80}]}";
    let running = harness(&web, rule).await;
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: a\r\norigin: https://a\r\naccess-control-request-method: POST\r\n\r\n";
    let response = exchange(running.address(), preflight).await;
    assert_eq!((response.status, response.head.header("access-control-allow-methods")), (204, Some("POST")));
}
