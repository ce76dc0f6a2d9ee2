//! Request bodies: validation, limits, and scanning to the end.

use crate::support::client::{connect, exchange, post, post_with, read_response};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::picker::{Phases, Picker, Reply, pick};
use crate::support::upstream::Upstream;
use forebay_grpc::proto::{BodySendMode, HttpHeaders, ProcessingMode};

/// A picker that decides on the headers and skips the body.
struct Early(String);

impl Phases for Early {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn request_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
        let mode =
            ProcessingMode { request_body_mode: BodySendMode::None.into(), ..ProcessingMode::default() };
        let mut reply = pick(&self.0);
        reply.mode_override = Some(mode);
        vec![Ok(reply)]
    }

    fn request_body(&self, _: &[bytes::Bytes], _: bool) -> Vec<Reply> {
        Vec::new()
    }
}

#[tokio::test]
async fn invalid_bodies_get_openai_errors() {
    let running = Harness::new().pool("qwen", QWEN, &[1], None).start().await;
    for (headers, body, status, code, param) in [
        ("", "", 400, "invalid_body", None),
        ("", "[]", 400, "invalid_body", None),
        ("", r#"{"model":"#, 400, "invalid_body", None),
        ("", r#"{"messages":[]}"#, 400, "invalid_model", Some("model")),
        ("", r#"{"model":7}"#, 400, "invalid_model", Some("model")),
        ("content-encoding: gzip\r\n", "x is not compressed", 400, "invalid_body", None),
        ("content-encoding: compress\r\n", "x", 415, "unsupported_content_encoding", None),
    ] {
        let response = exchange(running.address(), post_with(headers, body)).await;
        assert_eq!((response.status, response.code().as_str()), (status, code), "{body}");
        let error = &response.json()["error"];
        assert_eq!(
            (error["param"].as_str(), &error["type"]),
            (param, &"invalid_request_error".into()),
            "{body}"
        );
    }
    let form = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: Multipart/Mixed; boundary=x\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(exchange(running.address(), form).await.code(), "unsupported_content_type");
}

#[tokio::test]
async fn routes_a_form_whose_file_is_before_the_model() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let file = "x\r\n".repeat(100_000);
    let body = format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{file}\r\n\
        --XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{QWEN}\r\n--XX--\r\n"
    );
    let request = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=XX\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.status, 200);
    assert_eq!(request.header("x-gateway-model-name"), Some(QWEN));
    assert!(request.text() == body, "the form was changed");
}

#[tokio::test]
async fn forwards_a_compressed_body_unchanged() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let compressed =
        zstd::encode_all(format!(r#"{{"messages":[],"model":"{QWEN}"}}"#).as_bytes(), 1).unwrap();
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-encoding: zstd\r\ncontent-length: {}\r\n\r\n",
        compressed.len()
    )
    .into_bytes();
    request.extend_from_slice(&compressed);
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.status, 200);
    assert_eq!(request.header("content-encoding"), Some("zstd"));
    assert_eq!(request.body, compressed);
}

#[tokio::test]
async fn finds_a_model_after_two_megabytes() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"{QWEN}"}}"#,
        "x ".repeat(1_000_000)
    );
    let request = post(&body);
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    assert!(request.body == body.as_bytes(), "the body was changed");
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

/// The start of the body is forwarded while the client is still sending. A second model must abort it.
#[tokio::test]
async fn a_conflicting_second_model_aborts_a_streamed_request() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Early(upstream.address().to_string())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let first = format!(r#"{{"model":"{QWEN}","messages":[],"#);
    let second = format!(r#""model":"{TINY}"}}"#);
    for chunked in [false, true] {
        let (head, first, second) = if chunked {
            (
                "transfer-encoding: chunked".to_owned(),
                format!("{:x}\r\n{first}\r\n", first.len()),
                format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len()),
            )
        } else {
            (format!("content-length: {}", first.len() + second.len()), first.clone(), second.clone())
        };
        let mut client = connect(running.address()).await;
        client.write(format!("POST /v1/completions HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n{first}")).await;
        let mut pod = upstream.accept().await;
        let request = pod.read_head().await;
        assert_eq!(request.header("x-gateway-model-name"), Some(QWEN));
        pod.read_until(r#""messages":[],"#).await;
        client.write(second).await;
        let response = read_response(&mut client).await;
        assert_eq!((response.status, response.code().as_str()), (400, "model_conflict"));
        let rest = String::from_utf8(pod.read_to_end().await).unwrap();
        assert!(!rest.contains(TINY) && !rest.contains("0\r\n"), "the pod saw {rest:?}");
    }
}

#[tokio::test]
async fn forwards_a_response_that_arrives_before_the_end_of_the_body() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Early(upstream.address().to_string())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let mut client = connect(running.address()).await;
    let start = format!(r#"{{"model":"{QWEN}","#);
    client.write(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{start}")).await;
    let mut pod = upstream.accept().await;
    pod.read_head().await;
    pod.read_until(&start).await;
    pod.respond(429, "busy").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.text()), (429, "busy"));
    // The connection has an incomplete request, so it is not reused.
    assert_eq!(pod.read_to_end().await, b"");
}

#[tokio::test]
async fn rejects_bodies_over_the_hold_limits() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| {
            config.hold_request_bytes = 1_000;
            config.hold_total_bytes = 1_500;
        })
        .await;
    let announced = post(&format!(r#"{{"a":"{}","model":"{QWEN}"}}"#, "x".repeat(1_000)));
    let response = exchange(running.address(), announced).await;
    assert_eq!((response.status, response.code().as_str()), (413, "body_too_large"));

    // Without Content-Length it is rejected when the limit is reached.
    let mut client = connect(running.address()).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{\"a\":\"").await;
    client.write("x".repeat(1_500)).await;
    assert_eq!(read_response(&mut client).await.code(), "body_too_large");

    // Another request holds 900 bytes, so 600 more fit into the budget.
    let mut holding = connect(running.address()).await;
    holding
        .write(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 990\r\n\r\n{{\"a\":\"{}",
            "x".repeat(894)
        ))
        .await;
    running.until_metric("forebay_gateway_hold_bytes", 900.0).await;
    let response =
        exchange(running.address(), post(&format!(r#"{{"a":"{}","model":"m"}}"#, "x".repeat(700)))).await;
    assert_eq!((response.status, response.code().as_str()), (503, "hold_budget_exhausted"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
    drop(holding);
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}
