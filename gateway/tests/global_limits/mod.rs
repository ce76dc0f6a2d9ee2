//! Rate limits that a server counts: envoyproxy/ratelimit.

#![allow(clippy::print_stdout, reason = "a test that is skipped must say so")]

mod server;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_test_certificates::Authority;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response as H2Response;
use hyper::body::{Bytes, Frame};
use hyper::header::{HeaderName, HeaderValue};

use self::server::RateLimitServer;
use crate::support::client::{Response, connect, exchange, post_with};
use crate::support::h2::H2Backend;
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::tls::{Certificate, TlsFront, authorities};
use crate::support::until;
use crate::support::upstream::Upstream;

/// Three prompt tokens and two of output.
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
const CALLERS: &str = "{entries: [{name: caller, expression: \"request.headers['x-caller']\"}], \
                       cost: \"'x-cost' in request.headers ? int(request.headers['x-cost']) : 1\"}";
const TOKENS: &str = "{entries: [{name: model, expression: llm.model}], unit: Tokens}";

/// A gateway with a policy whose limits are on the server at this port. `more`: members of `global`.
async fn limited(server: u16, pod: u16, descriptors: &str, more: &str) -> Running {
    limited_twice(server, pod, descriptors, more, "").await
}

/// `local`: members of `rateLimit`.
async fn limited_twice(server: u16, pod: u16, descriptors: &str, more: &str, local: &str) -> Running {
    harness(server, pod, descriptors, more, local).start().await
}

fn harness(server: u16, pod: u16, descriptors: &str, more: &str, local: &str) -> Harness {
    let global = format!(
        "{{backendRef: {{name: limits, namespace: llm-d, port: 80}}, domain: models, descriptors: [{descriptors}]{more}}}"
    );
    let policy = format!(
        "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
         metadata: {{name: limits, namespace: agentgateway-system}}\n\
         spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}}], \
         traffic: {{rateLimit: {{{local}global: {global}}}}}}}\n"
    );
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
         metadata: {name: limits, namespace: llm-d}\n\
         spec: {from: [{group: agentgateway.dev, kind: AgentgatewayPolicy, namespace: agentgateway-system}], \
         to: [{group: '', kind: Service}]}";
    let harness = Harness::new().pool("qwen", QWEN, &[pod], None).service("limits", server, "grpc");
    harness.with(grant).with(&policy)
}

async fn ask(address: SocketAddr, headers: &str) -> Response {
    exchange(address, post_with(headers, &format!(r#"{{"model":"{QWEN}"}}"#))).await
}

fn calls(result: &str) -> String {
    format!(r#"forebay_gateway_rate_limit_server_calls_total{{server="llm-d/limits:80",result="{result}"}}"#)
}

/// An endpoint that answers every request.
async fn pod() -> (u16, tokio::task::JoinHandle<()>) {
    let upstream = Upstream::bind().await;
    let port = upstream.port();
    let serving = tokio::spawn(async move {
        while let Ok(mut connection) = upstream.accept_any().await {
            tokio::spawn(async move {
                while connection.next_request().await.is_some() {
                    let (kind, length) = ("application/json", ANSWER.len());
                    let head = format!("content-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
                    connection.write(format!("HTTP/1.1 200 OK\r\n{head}{ANSWER}")).await;
                }
            });
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_what_a_server_counts() {
    let Some(server) = RateLimitServer::start().await else { return };
    let (port, _pod) = pod().await;
    let gateways =
        [limited(server.port, port, CALLERS, "").await, limited(server.port, port, CALLERS, "").await];
    for (at, remaining) in [(0, "2"), (1, "1"), (0, "0")] {
        let admitted = ask(gateways[at].address(), "x-caller: a\r\n").await;
        assert_eq!(
            (admitted.status, admitted.head.header("x-ratelimit-remaining-requests")),
            (200, Some(remaining))
        );
    }
    for gateway in &gateways {
        let rejected = ask(gateway.address(), "x-caller: a\r\n").await;
        assert_eq!(
            (rejected.status, rejected.json()["error"]["code"].as_str()),
            (429, Some("rate_limit_exceeded"))
        );
        let message = rejected.json()["error"]["message"].as_str().unwrap().to_owned();
        let expected =
            "a limit of requests of the domain models (AgentgatewayPolicy agentgateway-system/limits) is";
        assert!(message.starts_with(expected), "{message}");
        let seconds: u64 = rejected.head.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3600).contains(&seconds), "{seconds}");
        assert_eq!(rejected.head.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(gateway.metric(&calls("over_limit")).await, 1.0);
        let limited =
            r#"forebay_gateway_rate_limited_total{policy="agentgateway-system/limits",measure="requests"}"#;
        assert_eq!(gateway.metric(limited).await, 1.0);
    }
    let limits = "GET /forebay/v1/limits HTTP/1.1\r\nhost: models.example\r\nx-caller: b\r\n\r\n";
    for _ in 0..2 {
        let listed = exchange(gateways[0].address(), limits).await.json()["data"].clone();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
        let of_b = &listed[0];
        assert_eq!(
            (&of_b["amount"], &of_b["remaining"]),
            (&3.into(), &3.into()),
            "reading counts nothing: {of_b}"
        );
        assert_eq!((&of_b["counts"], &of_b["descriptor"]["caller"]), (&"requests".into(), &"b".into()));
    }
    // Another value of the descriptor has a count of its own, and a cost counts for as much.
    let address = gateways[0].address();
    assert_eq!(ask(address, "x-caller: b\r\nx-cost: 3\r\n").await.status, 200);
    assert_eq!(ask(address, "x-caller: b\r\n").await.status, 429);
    // Without the header, the descriptor has no value.
    for _ in 0..5 {
        assert_eq!(ask(address, "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reported_when_they_are_known() {
    let Some(server) = RateLimitServer::start().await else { return };
    let (port, _pod) = pod().await;
    let gateway = limited(server.port, port, &format!("{CALLERS}, {TOKENS}"), "").await;
    let address = gateway.address();
    // Five each: after two nothing is left, and nothing is over the limit yet.
    for (reported, remaining) in [(1.0, "10"), (2.0, "5")] {
        let response = ask(address, "x-caller: c\r\n").await;
        assert_eq!(
            (response.status, response.head.header("x-ratelimit-remaining-tokens")),
            (200, Some(remaining))
        );
        gateway.until_metric(&calls("reported"), reported).await;
    }
    let rejected = ask(address, "x-caller: c\r\n").await;
    let message = rejected.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(rejected.status, 429);
    assert!(message.starts_with("a limit of tokens of the domain models"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_lets_requests_through_only_if_the_policy_says_so() {
    let Some(mut server) = RateLimitServer::start().await else { return };
    let (port, _pod) = pod().await;
    let closed = limited(server.port, port, CALLERS, "").await;
    let open = limited(server.port, port, CALLERS, ", failureMode: FailOpen").await;
    assert_eq!(ask(closed.address(), "x-caller: d\r\n").await.status, 200);
    server.kill();
    let rejected = ask(closed.address(), "x-caller: d\r\n").await;
    assert_eq!(
        (rejected.status, rejected.json()["error"]["code"].as_str()),
        (503, Some("rate_limit_server_unavailable"))
    );
    assert_eq!(rejected.head.header("retry-after"), Some("1"));
    assert_eq!(ask(open.address(), "x-caller: d\r\n").await.status, 200);
    assert_eq!(open.metric(&calls("failed")).await, 1.0);
    // No descriptor has a value, so the server is not asked.
    assert_eq!(ask(closed.address(), "").await.status, 200);

    server.start_again().await;
    until("the server to be used again", || async {
        (ask(closed.address(), "x-caller: e\r\n").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let (port, _pod) = pod().await;
    let silent = Upstream::bind().await;
    let gateway = limited(silent.port(), port, CALLERS, "").await;
    let start = Instant::now();
    let rejected = ask(gateway.address(), "x-caller: a\r\n").await;
    assert_eq!(rejected.json()["error"]["code"], "rate_limit_server_unavailable");
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_while_the_server_is_asked_is_not_counted() {
    let (port, _pod) = pod().await;
    let silent = Upstream::bind().await;
    let local = "local: [{requests: 1, unit: Hours}], ";
    let gateway = limited_twice(silent.port(), port, CALLERS, "", local).await;
    let mut client = connect(gateway.address()).await;
    client.write(post_with("x-caller: a\r\n", &format!(r#"{{"model":"{QWEN}"}}"#))).await;
    let _asked = silent.accept_any().await.unwrap();
    drop(client);
    gateway.until_metric("forebay_gateway_active_requests", 0.0).await;
    let next = ask(gateway.address(), "x-caller: a\r\n").await;
    assert_eq!(next.json()["error"]["code"], "rate_limit_server_unavailable", "{}", next.text());
}

#[tokio::test]
async fn an_answer_without_a_code_lets_nothing_through() {
    let (port, _pod) = pod().await;
    // A message without members.
    let server = H2Backend::start(|_| async {
        let message = Frame::data(Bytes::from_static(&[0; 5]));
        let status = Frame::trailers(
            [("grpc-status", "0")]
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .into_iter()
                .collect(),
        );
        let body = StreamBody::new(stream::iter([Ok(message), Ok(status)]));
        let response =
            H2Response::builder().header("content-type", "application/grpc").body(BodyExt::boxed(body));
        Ok(response.unwrap())
    })
    .await;
    let gateway = limited(server.port, port, CALLERS, "").await;
    let rejected = ask(gateway.address(), "x-caller: a\r\n").await;
    assert_eq!(rejected.json()["error"]["code"], "rate_limit_server_unavailable", "{}", rejected.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_over_tls_if_it_can_be_verified() {
    let Some(server) = RateLimitServer::start().await else { return };
    let (port, _pod) = pod().await;
    let (authority, other) = (Authority::new("ca").unwrap(), Authority::new("ca").unwrap());
    let certificate = Certificate::issued(&authority, "limits.example");
    let front = TlsFront::start(&certificate, "h2", server.port).await;
    let tls = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: limits, namespace: llm-d}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: limits}], validation: {hostname: limits.example, \
         caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}\n";
    for (trusted, status) in [(&other, 503), (&authority, 200)] {
        let harness = harness(front.port, port, CALLERS, "", "").with(tls);
        let running = harness.with(&authorities("llm-d", "ca", trusted.pem())).start().await;
        let answer = ask(running.address(), "x-caller: tls\r\n").await;
        assert_eq!(answer.status, status);
        if status == 200 {
            assert_eq!(answer.head.header("x-ratelimit-remaining-requests"), Some("2"));
            assert_eq!(front.server_name().as_deref(), Some("limits.example"));
        } else {
            assert_eq!(front.server_name(), None);
        }
    }
}
