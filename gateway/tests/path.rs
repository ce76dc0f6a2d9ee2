//! The data path: requests of the llm-d guide, streams, headers, connections.

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{connect, exchange, get, post, post_with, read_response};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::upstream::Upstream;
use crate::support::within;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[{"role":"user","content":"Hello"}]}"#;

#[tokio::test]
async fn routes_the_requests_of_the_guide() {
    let (qwen, tiny) = (Upstream::bind().await, Upstream::bind().await);
    let qwen_picker = Picker::start(Fixed::at(qwen.address())).await;
    let tiny_picker = Picker::start(Fixed::at(tiny.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port()], Some((qwen_picker.port(), "FailClose")))
        .pool("tiny", TINY, &[tiny.port()], Some((tiny_picker.port(), "FailClose")))
        .policy(&[(QWEN, QWEN), (TINY, TINY), ("my-adapter", QWEN)])
        .start()
        .await;

    for (model, base, upstream) in [(QWEN, QWEN, &qwen), (TINY, TINY, &tiny), ("my-adapter", QWEN, &qwen)] {
        let body = format!(r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}"#);
        let request = post(&body);
        let (response, request) =
            tokio::join!(exchange(running.address(), request), upstream.answer_one("{\"ok\":true}"));
        assert_eq!((response.status, response.text()), (200, "{\"ok\":true}"), "{model}");
        assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
        assert_eq!(request.text(), body);
        assert_eq!(request.header("x-gateway-model-name"), Some(model));
        assert_eq!(request.header("x-gateway-base-model-name"), Some(base));
        assert_eq!(request.header("content-length"), Some(body.len().to_string().as_str()));
        assert_eq!(request.header("host"), Some("models.example"));
    }

    let response = exchange(running.address(), post(r#"{"model": "nonexistent", "messages": []}"#)).await;
    assert_eq!((response.status, response.code().as_str()), (404, "model_not_found"));
    assert_eq!(response.json()["error"]["message"], "the model `nonexistent` does not exist");

    let label = |model: &str, pool: &str, code| {
        format!(r#"forebay_gateway_requests_total{{model="{model}",pool="{pool}",code="{code}"}}"#)
    };
    running.until_metric(&label(QWEN, "llm-d/qwen", 200), 1.0).await;
    running.until_metric(&label("my-adapter", "llm-d/qwen", 200), 1.0).await;
    running.until_metric(&label("unknown", "unknown", 404), 1.0).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn an_error_for_a_head_request_has_no_content_type() {
    let running = Harness::new().start().await;
    let mut connection = TcpStream::connect(running.address()).await.unwrap();
    connection.write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("the answer", connection.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(!answer.contains("content-type"), "{answer}");
}

#[tokio::test]
async fn forwards_a_stream_event_by_event() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    // Each event reaches the client before the next one is sent.
    let head = client.read_head().await;
    assert_eq!(head.line, "HTTP/1.1 200 OK");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for event in ["data: one\n\n", ": keep-alive\n\n", "data: [DONE]\n\n"] {
        pod.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
        client.read_until(event).await;
    }
    running.until_metric("forebay_gateway_active_requests", 1.0).await;
    // The picker learns the endpoint while the response is in flight. Its stream stays open until the response ends.
    let answered = picker.until("the response headers", is_response_headers).await;
    let Seen::Message(message) = answered else { unreachable!() };
    let served = &message.metadata_context.unwrap().filter_metadata["envoy.lb"].fields["x-gateway-destination-endpoint-served"];
    assert_eq!(served.kind, Some(forebay_grpc::proto::Kind::StringValue(upstream.address().to_string())));
    pod.write("0\r\n\r\n").await;
    client.read_until("0\r\n\r\n").await;
    picker.until("the stream's end", |seen| matches!(seen, Seen::Ended)).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
}

fn is_response_headers(seen: &Seen) -> bool {
    use forebay_grpc::proto::processing_request::Request;
    matches!(seen, Seen::Message(message) if matches!(message.request, Some(Request::ResponseHeaders(_))))
}

#[tokio::test]
async fn removes_internal_and_hop_by_hop_headers() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let headers = "X-Gateway-Base-Model-Name: stolen\r\nx_gateway_model_name: stolen\r\n\
        x-gateway-destination-endpoint: 127.0.0.1:1\r\nx-prefiller-host-port: 127.0.0.1:1\r\n\
        connection: x-mine\r\nx-mine: 1\r\nte: trailers\r\nx-kept: 1\r\nauthorization: Bearer me\r\n";
    let pod = async {
        let mut pod = upstream.accept().await;
        let request = pod.read_request().await;
        let head = "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\nx-answer: 1\r\ncontent-length: 0\r\n\r\n";
        pod.write(head).await;
        request
    };
    let request = post_with(headers, CHAT);
    let (response, request) = tokio::join!(exchange(running.address(), request), pod);
    assert_eq!(request.header("x-gateway-base-model-name"), Some(QWEN));
    for gone in
        ["x_gateway_model_name", "x-gateway-destination-endpoint", "x-prefiller-host-port", "x-mine", "te"]
    {
        assert_eq!(request.header(gone), None, "{gone}");
    }
    assert_eq!((request.header("x-kept"), request.header("authorization")), (Some("1"), Some("Bearer me")));
    assert_eq!((response.head.header("x-answer"), response.head.header("x-hop")), (Some("1"), None));
    assert_eq!(response.head.header("keep-alive"), None);

    // A spoofed base model does not route an unknown model.
    let running =
        Harness::new().pool("qwen", QWEN, &[upstream.port()], None).policy(&[(QWEN, QWEN)]).start().await;
    let spoofed = post_with("X-Gateway-Base-Model-Name: Qwen/Qwen3-0.6B\r\n", r#"{"model":"other"}"#);
    assert_eq!(exchange(running.address(), spoofed).await.status, 404);
}

#[tokio::test]
async fn rejects_ambiguous_framing() {
    let running = Harness::new().pool("qwen", QWEN, &[1], None).start().await;
    let request = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let response = exchange(running.address(), request).await;
    assert_eq!(response.status, 400);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let request = post_with("expect: 100-continue\r\n", CHAT);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut client = connect(running.address()).await;
    client.write(format!("{head}\r\n\r\n")).await;
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write(body).await;
    let request = upstream.answer_one("ok").await;
    assert_eq!((request.header("expect"), request.text()), (None, CHAT));
    assert_eq!(read_response(&mut client).await.text(), "ok");
}

#[tokio::test]
async fn reuses_client_and_upstream_connections() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let mut client = connect(running.address()).await;
    client.write(post(CHAT)).await;
    let mut pod = upstream.accept().await;
    for answer in ["first", "second", "third"] {
        pod.read_request().await;
        pod.respond(200, answer).await;
        assert_eq!(read_response(&mut client).await.text(), answer);
        if answer != "third" {
            client.write(post(CHAT)).await;
        }
    }
    // A connection is also reused after a response without a body.
    client.write(post(CHAT)).await;
    pod.read_request().await;
    pod.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(read_response(&mut client).await.status, 204);
    client.write(post(CHAT)).await;
    pod.read_request().await;
}

#[tokio::test]
async fn an_http2_client_without_tls() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::post("http://models.example/v1/chat/completions")
        .body(Full::new(bytes::Bytes::from_static(CHAT.as_bytes())))
        .unwrap();
    let (response, request) =
        tokio::join!(within("a response", sender.send_request(request)), upstream.answer_one("ok"));
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(within("the body", response.into_body().collect()).await.unwrap().to_bytes(), "ok");
    assert_eq!((request.header("host"), request.text()), (Some("models.example"), CHAT));
    connection.abort();
}

#[tokio::test]
async fn forwards_a_chunked_body() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let mut client = connect(running.address()).await;
    client.write("POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for byte in CHAT.as_bytes() {
        client.write([b'1', b';', b'x', b'\r', b'\n', *byte, b'\r', b'\n']).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(upstream.answer_one("ok").await.text(), CHAT);
    assert_eq!(read_response(&mut client).await.status, 200);
}

#[tokio::test]
async fn a_disconnect_before_the_response_cancels_the_request() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let (client, mut pod) = running.forwarded(CHAT, &upstream).await;
    drop(client);
    assert_eq!(pod.read_to_end().await, b"");
    picker.until("the stream to end", |seen| matches!(seen, Seen::Reset | Seen::Ended)).await;
    running
        .until_metric(
            &format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="499"}}"#),
            1.0,
        )
        .await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn a_disconnect_during_a_stream_cancels_it() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    client.stream.shutdown().await.unwrap();
    drop(client);
    assert_eq!(pod.read_to_end().await, b"");
    picker.until("the stream to end", |seen| matches!(seen, Seen::Reset | Seen::Ended)).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
}

#[tokio::test]
async fn routes_a_request_without_body_by_its_path() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .with(
            r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: versions, namespace: agentgateway-system}
spec:
  parentRefs: [{name: inference-gateway}]
  rules:
  - matches: [{path: {type: Exact, value: /version}}]
    backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen, namespace: llm-d}]
"#,
        )
        .with(
            r#"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: routes, namespace: llm-d}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: agentgateway-system}]
  to: [{group: inference.networking.k8s.io, kind: InferencePool}]
"#,
        )
        .start()
        .await;
    let (response, request) =
        tokio::join!(get(running.address(), "/version?x=1"), upstream.answer_one("0.32"));
    assert_eq!((response.text(), request.line.as_str()), ("0.32", "GET /version?x=1 HTTP/1.1"));
    let response = get(running.address(), "/other").await;
    assert_eq!((response.status, response.code().as_str()), (404, "route_not_found"));
}

#[tokio::test]
async fn rejects_upgrades_and_tunnels() {
    let running = Harness::new().pool("qwen", QWEN, &[1], None).start().await;
    let websocket =
        "GET /v1/realtime HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let tunnel = "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n";
    for request in [websocket, tunnel] {
        let response = exchange(running.address(), request).await;
        assert_eq!((response.status, response.code().as_str()), (501, "upgrade_unsupported"), "{request}");
    }
}
