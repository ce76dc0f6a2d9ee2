//! Rate limits.

use std::collections::BTreeMap;

use super::*;
use crate::support::client::{connect, read_response};

/// Three prompt tokens and two of output.
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn local(limits: &str) -> String {
    format!("rateLimit: {{local: [{limits}]}}")
}

/// A pool behind a policy of the Gateway with these fields.
fn limited(upstream: &Upstream, fields: &str) -> Harness {
    Harness::new().pool("qwen", QWEN, &[upstream.port()], None).with(&policy(
        "agentgateway-system",
        "limits",
        GATEWAY,
        fields,
    ))
}

/// The `x-ratelimit-*` headers, by their end.
fn left(response: &Response) -> BTreeMap<&str, &str> {
    let headers = ["limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens"];
    let value = |name: &'static str| Some((name, response.head.header(&format!("x-ratelimit-{name}"))?));
    headers.into_iter().filter_map(value).collect()
}

async fn answered(address: SocketAddr, upstream: &Upstream, answer: &str) -> Response {
    let body = body(QWEN);
    let answering = async {
        let mut connection = upstream.accept().await;
        connection.read_request().await;
        let length = answer.len();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        connection.write(format!("{head}content-length: {length}\r\n\r\n{answer}")).await;
    };
    let (response, ()) = tokio::join!(exchange(address, post_with("", &body)), answering);
    response
}

/// What is left of the tokens for the next request, which the engine then rejects.
async fn remaining_tokens(address: SocketAddr, upstream: &Upstream) -> u64 {
    let mut client = connect(address).await;
    client.write(post_with("", &body(QWEN))).await;
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    pod.respond(400, "{}").await;
    let response = read_response(&mut client).await;
    assert_eq!(response.status, 400);
    left(&response)["remaining-tokens"].parse().unwrap()
}

/// The estimate for a request: a quarter of the bytes of its body, and 256.
fn estimated() -> (u64, u64) {
    (body(QWEN).len().div_ceil(4) as u64, 256)
}

#[tokio::test]
async fn requests_above_the_limit_are_told_when_it_opens() {
    let upstream = Upstream::bind().await;
    let running =
        limited(&upstream, &local("{requests: 1, burst: 1, unit: Hours}, {requests: 9, unit: Seconds}"))
            .start()
            .await;
    let address = running.address();
    for remaining in ["1", "0"] {
        let response = answered(address, &upstream, "ok").await;
        assert_eq!(response.text(), "ok");
        assert_eq!(left(&response), [("limit-requests", "2"), ("remaining-requests", remaining)].into());
    }
    let rejected = ask(address, "", QWEN).await;
    assert_eq!(outcome(&rejected), is(429, "rate_limit_exceeded"));
    assert_eq!(rejected.json()["error"]["type"], "rate_limit_error");
    assert_eq!(left(&rejected), [("limit-requests", "2"), ("remaining-requests", "0")].into());
    let seconds: u64 = rejected.head.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    let message = format!(
        "the limit of 1 request per hour and a burst of 1 (AgentgatewayPolicy agentgateway-system/limits) is \
         reached; try again in {seconds} s"
    );
    assert_eq!(rejected.json()["error"]["message"], message);
    let policy = "agentgateway-system/limits";
    let metric = format!(r#"forebay_gateway_rate_limited_total{{policy="{policy}",measure="requests"}}"#);
    assert_eq!(running.metric(&metric).await, 1.0);
}

#[tokio::test]
async fn tokens_are_counted_as_the_engine_reports_them() {
    let upstream = Upstream::bind().await;
    let running = limited(&upstream, &local("{tokens: 1000, unit: Hours}")).start().await;
    let address = running.address();
    let (prompt, output) = estimated();
    let first = answered(address, &upstream, ANSWER).await;
    assert_eq!(left(&first)["remaining-tokens"], (1000 - prompt - output).to_string());
    // The estimates have learned from the first response. An error of the engine uses nothing.
    let second = remaining_tokens(address, &upstream).await;
    assert!((1000 - prompt - output + 1..995).contains(&second), "{second}");
    assert_eq!(remaining_tokens(address, &upstream).await, second);
    // One that reports more than is left puts the limit into debt.
    let much = ANSWER.replace("\"completion_tokens\":2", "\"completion_tokens\":5000");
    assert_eq!(answered(address, &upstream, &much).await.status, 200);
    let rejected = ask(address, "", QWEN).await;
    assert_eq!(outcome(&rejected), is(429, "rate_limit_exceeded"));
    let seconds: u64 = rejected.head.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds > 3600, "{seconds}");
    assert_eq!(left(&rejected)["remaining-tokens"], "0");
}

#[tokio::test]
async fn the_maximum_output_of_the_request_is_reserved() {
    let upstream = Upstream::bind().await;
    let running = limited(&upstream, &local("{tokens: 1000, unit: Hours}")).start().await;
    let body = format!(r#"{{"model":"{QWEN}","messages":[],"n":2,"max_completion_tokens":40}}"#);
    let mut client = connect(running.address()).await;
    let request = post_with("", &body);
    let (first, second) = request.split_at(request.len() - 20);
    client.write(first).await;
    client.write(second).await;
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    pod.respond(400, "{}").await;
    let response = read_response(&mut client).await;
    assert_eq!(left(&response)["remaining-tokens"], (1000 - body.len().div_ceil(4) - 2 * 40).to_string());
    // The engine rejected it.
    let (prompt, output) = estimated();
    assert_eq!(remaining_tokens(running.address(), &upstream).await, 1000 - prompt - output);
}

#[tokio::test]
async fn usage_of_streams_is_asked_for_and_settled() {
    let upstream = Upstream::bind().await;
    let running = limited(&upstream, &local("{tokens: 1000, unit: Hours}")).start().await;
    let body = format!(r#"{{"model":"{QWEN}","messages":[],"stream":true,"max_tokens":40}}"#);
    let mut client = connect(running.address()).await;
    client.write(post_with("", &body)).await;
    let mut pod = upstream.accept().await;
    let request = pod.read_request().await;
    let asked = format!("{},\"stream_options\":{{\"include_usage\":true}}}}", &body[..body.len() - 1]);
    assert_eq!(request.text(), asked);
    pod.write(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {ANSWER}\n\n"
    ))
    .await;
    drop(pod);
    assert_eq!(client.read_until("\r\n\r\n0\r\n\r\n").await.matches("data:").count(), 0);
    let remaining = remaining_tokens(running.address(), &upstream).await;
    // Three and two tokens, and the estimate for the next request, which has learned from them.
    let (prompt, output) = estimated();
    assert!((995 - prompt - output..995).contains(&remaining), "{remaining}");
}

#[tokio::test]
async fn streams_without_usage_are_counted_by_their_events() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let (prompt, output) = estimated();
    for is_aborted in [false, true] {
        let upstream = Upstream::bind().await;
        let running = limited(&upstream, &local("{tokens: 1000, unit: Hours}")).start().await;
        let address = running.address();
        let mut client = connect(address).await;
        client.write(post_with("", &body(QWEN))).await;
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write(format!("{head}{}", event.repeat(7))).await;
        if is_aborted {
            for _ in 0..7 {
                client.read_until("\n\n").await;
            }
            drop(client);
            running.until_metric("forebay_gateway_active_requests", 0.0).await;
        } else {
            drop(pod);
            client.read_until("\r\n0\r\n\r\n").await;
        }
        let remaining = remaining_tokens(address, &upstream).await;
        assert_eq!(remaining, 1000 - (prompt + 7) - (prompt + output), "aborted: {is_aborted}");
    }
}

#[tokio::test]
async fn parallel_requests_cannot_pass_together() {
    let upstream = Upstream::bind().await;
    let running = limited(&upstream, &local("{requests: 32, unit: Hours}")).start().await;
    let address = running.address();
    let serving = tokio::spawn(async move {
        while let Ok(mut connection) = upstream.accept_any().await {
            tokio::spawn(async move {
                while connection.next_request().await.is_some() {
                    connection.respond(200, ANSWER).await;
                }
            });
        }
    });
    let clients: Vec<_> =
        (0..64).map(|_| tokio::spawn(async move { ask(address, "", QWEN).await.status })).collect();
    let mut counts = BTreeMap::new();
    for client in clients {
        *counts.entry(client.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, [(200, 32), (429, 32)].into());
    serving.abort();
}

#[tokio::test]
async fn the_limits_of_a_route_apply_instead_of_those_of_the_gateway() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: qwen}";
    let running = door(&qwen, &tiny, &local("{requests: 1, unit: Hours}"))
        .with(&policy("llm-d", "more", route, &local("{requests: 2, unit: Hours}")))
        .start()
        .await;
    let address = running.address();
    let mut statuses = Vec::new();
    for model in [QWEN, QWEN, QWEN, TINY, TINY] {
        statuses.push(ask(address, "", model).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 200, 429]);
}

#[tokio::test]
async fn only_admitted_callers_are_counted() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let fields = format!("{}, {}", keys(""), local("{requests: 1, unit: Hours}"));
    let running = door(&qwen, &tiny, &fields).start().await;
    let address = running.address();
    for _ in 0..3 {
        assert_eq!(ask(address, &bearer("k-other"), QWEN).await.status, 401);
    }
    assert_eq!(ask(address, &bearer(SALES), QWEN).await.status, 200);
    assert_eq!(ask(address, &bearer(SALES), QWEN).await.status, 429);
}

#[tokio::test]
async fn a_change_of_the_routes_does_not_open_a_limit_again() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let harness = door(&qwen, &tiny, &local("{requests: 1, unit: Hours}"));
    let changed = harness.manifests.replace(
        "name: tiny, namespace: llm-d}\nspec:\n  parentRefs",
        "name: other, namespace: llm-d}\nspec:\n  parentRefs",
    );
    assert_ne!(changed, harness.manifests);
    let mut running = harness.start().await;
    assert_eq!(ask(running.address(), "", QWEN).await.status, 200);
    let changes = std::cell::Cell::new(0);
    running.rewrite(&changed, |_| changes.replace(changes.get() + 1) > 0).await;
    assert_eq!(ask(running.address(), "", QWEN).await.status, 429);
}

#[tokio::test]
async fn groups_of_callers_share_limits_of_their_own() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let set = |condition: &str, requests: u32| {
        format!("{{{condition}policy: {{local: [{{requests: {requests}, unit: Hours}}]}}}}")
    };
    let sets = [
        set(&format!("condition: \"apiKey.group == 'labs' && llm.model == '{QWEN}'\", "), 1),
        set("condition: \"apiKey.group == 'labs'\", ", 2),
        set("", 3),
    ];
    let fields = format!("{}, rateLimit: {{conditional: [{}]}}", keys(", mode: Optional"), sets.join(", "));
    let running = door(&qwen, &tiny, &fields).start().await;
    let address = running.address();
    let (labs, sales) = (bearer(LABS), bearer(SALES));
    let mut rejected = Vec::new();
    for (at, (headers, model)) in [
        (&labs, QWEN),
        (&labs, QWEN),
        (&labs, TINY),
        (&labs, TINY),
        (&labs, TINY),
        (&sales, QWEN),
        // The condition cannot be evaluated without a key.
        (&String::new(), QWEN),
        (&sales, TINY),
        (&sales, TINY),
    ]
    .into_iter()
    .enumerate()
    {
        match ask(address, headers, model).await.status {
            200 => {}
            429 => rejected.push(at),
            other => panic!("request {at}: {other}"),
        }
    }
    assert_eq!(rejected, [1, 4, 8]);
}

#[tokio::test]
async fn tokens_of_requests_to_services_are_reserved() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .service("web", upstream.port(), "")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .with(&policy("agentgateway-system", "limits", GATEWAY, &local("{tokens: 1000, unit: Hours}")))
        .start()
        .await;
    let (prompt, output) = estimated();
    let response = answered(running.address(), &upstream, ANSWER).await;
    assert_eq!(left(&response)["remaining-tokens"], (1000 - prompt - output).to_string());
}

#[tokio::test]
async fn a_preflight_that_no_filter_answers_is_counted() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}";
    let running =
        door(&qwen, &tiny, &local("{requests: 1, unit: Hours}")).route("other", route).start().await;
    let preflight =
        "OPTIONS /other HTTP/1.1\r\nhost: models.example\r\naccess-control-request-method: POST\r\n\r\n";
    assert_eq!(exchange(running.address(), preflight).await.status, 200);
    assert_eq!(exchange(running.address(), preflight).await.status, 429);
}

async fn left_of(address: SocketAddr, headers: &str) -> Response {
    let request = format!("GET /forebay/v1/limits HTTP/1.1\r\nhost: models.example\r\n{headers}\r\n");
    exchange(address, request).await
}

#[tokio::test]
async fn callers_ask_what_is_left_with_their_own_key() {
    let upstream = Upstream::bind().await;
    let conditional = "rateLimit: {conditional: [\
        {condition: \"apiKey.group == 'labs'\", policy: {local: [{requests: 5, burst: 2, unit: Minutes}]}}, \
        {condition: \"llm.model == 'x'\", policy: {local: [{requests: 1, unit: Hours}]}}, \
        {policy: {local: [{tokens: 1000, unit: Hours}]}}]}";
    let running = limited(&upstream, &format!("{}, {conditional}", keys("")))
        .with(&secret("agentgateway-system"))
        .start()
        .await;
    let address = running.address();
    assert_eq!(outcome(&left_of(address, "").await), is(401, "missing_api_key"));
    let limit = |counts: &str, amount: u32, per: &str, capacity: u32, remaining: u32| {
        serde_json::json!({
            "object": "limit", "policy": "agentgateway-system/limits", "counts": counts, "amount": amount, "per": per,
            "capacity": capacity, "remaining": remaining,
        })
    };
    let data = async |key: &str| {
        let response = left_of(address, &bearer(key)).await;
        assert_eq!((response.status, response.head.header("cache-control")), (200, Some("no-store")));
        let mut data = response.json()["data"].as_array().unwrap().clone();
        for limit in &mut data {
            let full_after = limit.as_object_mut().unwrap().remove("full_after_seconds").unwrap();
            assert!(full_after.as_f64().unwrap() >= 0.0);
        }
        data
    };
    assert_eq!(data(LABS).await, [limit("requests", 5, "minute", 7, 7)]);
    assert_eq!(data(SALES).await, [limit("tokens", 1000, "hour", 1000, 1000)]);
    let answering = upstream.answer_one("ok");
    let labs = bearer(LABS);
    let (response, _) = tokio::join!(ask(address, &labs, QWEN), answering);
    assert_eq!(response.text(), "ok");
    // Asking takes nothing.
    assert_eq!(data(LABS).await, [limit("requests", 5, "minute", 7, 6)]);
    assert_eq!(data(SALES).await, [limit("tokens", 1000, "hour", 1000, 1000)]);
}

#[tokio::test]
async fn without_limits_the_path_is_one_of_the_routes() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    assert_eq!(left_of(running.address(), "").await.status, 404);
}
