//! Unusual request bodies, which engines treat differently.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::client::{connect, exchange, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker};
use crate::support::upstream::Upstream;
use crate::support::within;

async fn harness(upstream: &Upstream) -> Running {
    Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await
}

/// A request with this body and these header lines.
fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// `levels` nested lists inside the root object, followed by the model.
fn nested(levels: usize) -> String {
    format!(r#"{{"a":{}{},"model":"{QWEN}"}}"#, "[".repeat(levels), "]".repeat(levels))
}

/// The maximum depth of lists inside the root.
const DEEPEST: usize = forebay_openai::MAX_DEPTH as usize - 1;

#[tokio::test]
async fn forwards_bodies_that_engines_accept_byte_for_byte() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream).await;
    let model = format!(r#""model":"{QWEN}""#);
    let json = "content-type: application/json\r\n";
    for (name, headers, body) in [
        ("a byte order mark", json, format!("\u{feff}{{{model}}}").into_bytes()),
        ("blanks before the root", json, format!(" \r\n\t{{{model}}}").into_bytes()),
        ("bytes behind the root", json, format!("{{{model}}} x\0]}}{{\"model\":\"other\"}}").into_bytes()),
        ("NaN and infinities", json, format!(r#"{{"top_p":NaN,"a":-Infinity,{model}}}"#).into_bytes()),
        ("a lone surrogate", json, format!(r#"{{"a":"\ud800",{model}}}"#).into_bytes()),
        ("bytes that are not UTF-8", json, [b"{\"a\":\"\xff\xc0\",", model.as_bytes(), b"}"].concat()),
        ("the deepest nesting", json, nested(DEEPEST).into_bytes()),
        ("a key with escapes", json, model.replace("model", r"\u006dod\u0065l").into_bytes()),
        ("the same model twice", json, format!("{{{model},{model}}}").into_bytes()),
        ("a model in text, tools and metadata", json, format!(
            r#"{{"messages":[{{"content":"\"model\":\"x\""}}],"tools":[{{"model":"x"}}],"metadata":{{"model":"x"}},{model}}}"#
        ).into_bytes()),
        ("numbers that no float holds", json, format!(r#"{{"seed":12345678901234567890,"t":0.7,{model}}}"#).into_bytes()),
        ("no type", "", format!("{{{model}}}").into_bytes()),
    ] {
        let body = if body.starts_with(b"\"") { [b"{", &body[..], b"}"].concat() } else { body };
        let sent = request(headers, &body);
        let (response, got) = tokio::join!(exchange(running.address(), sent), upstream.answer_one("ok"));
        assert_eq!(response.text(), "ok", "{name}");
        assert!(got.body == body, "{name}: the body arrived changed");
        assert_eq!(got.header("x-gateway-model-name"), Some(QWEN), "{name}");
    }
}

#[tokio::test]
async fn rejects_bodies_without_an_unambiguous_model() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream).await;
    let text = format!(r#"{{"model":"{QWEN}"}}"#);
    let utf16 = |mark: bool, of: fn(u16) -> [u8; 2]| -> Vec<u8> {
        mark.then_some(0xfeff).into_iter().chain(text.encode_utf16()).flat_map(of).collect()
    };
    let utf32: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (name, body, code, param) in [
        ("UTF-16", utf16(false, u16::to_le_bytes), "invalid_body", None),
        ("UTF-16, big endian", utf16(false, u16::to_be_bytes), "invalid_body", None),
        ("UTF-16 with a mark", utf16(true, u16::to_le_bytes), "invalid_body", None),
        ("UTF-32", utf32, "invalid_body", None),
        ("too deep", nested(DEEPEST + 1).into_bytes(), "invalid_body", None),
        ("a string", br#""model""#.to_vec(), "invalid_body", None),
        ("cut", text.as_bytes()[..12].to_vec(), "invalid_body", None),
        ("empty", br#"{"model":""}"#.to_vec(), "invalid_model", Some("model")),
        ("null", br#"{"model":null}"#.to_vec(), "invalid_model", Some("model")),
        ("two", format!(r#"{{"model":"{QWEN}","model":"x"}}"#).into_bytes(), "model_conflict", Some("model")),
        ("a line's end", br#"{"model":"a\r\nx-evil: 1"}"#.to_vec(), "invalid_model", Some("model")),
    ] {
        let response = exchange(running.address(), request("", &body)).await;
        assert_eq!((response.status, response.code().as_str()), (400, code), "{name}");
        assert_eq!(response.json()["error"]["param"].as_str(), param, "{name}");
    }
}

/// The response is sent before the rest of the body arrives.
#[tokio::test]
async fn rejects_a_model_name_of_a_mebibyte_early() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream).await;
    let mut client = connect(running.address()).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1048600\r\n\r\n{\"model\":\"").await;
    client.write("m".repeat(600)).await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.code().as_str()), (400, "invalid_model"));
}

#[tokio::test]
async fn a_client_that_stalls_gets_a_timeout() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.client_body_timeout = Duration::from_millis(100))
        .await;
    let mut client = connect(running.address()).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"messages\":").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.code().as_str()), (408, "body_timeout"));
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

/// The body ends with trailers, which engines ignore. A picker must still be told that the body has ended.
#[tokio::test]
async fn request_trailers_end_the_body() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    let body = format!(r#"{{"model":"{QWEN}"}}"#);
    let request = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-t: 1\r\n\r\n",
        body.len()
    );
    let (response, got) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!((response.text(), got.text()), ("ok", body.as_str()));
}

/// Frames may be padded and of any length (RFC 9113 §6.1).
#[tokio::test]
async fn padded_http2_frames_of_single_bytes() {
    const POST: u8 = 0x83;
    const HTTP: u8 = 0x86;
    const STATUS_200: u8 = 0x88;
    const END_STREAM: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }
    fn literal(name_index: u8, value: &str) -> Vec<u8> {
        [&[name_index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    }
    let upstream = Upstream::bind().await;
    let running = harness(&upstream).await;
    let body = format!(r#"{{"model":"{QWEN}","messages":[]}}"#);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    let head = [vec![POST, HTTP], literal(4, "/v1/completions"), literal(1, "a.example")].concat();
    bytes.extend(frame(1, END_HEADERS, 1, &head));
    for (at, byte) in body.bytes().enumerate() {
        let end = if at + 1 == body.len() { END_STREAM } else { 0 };
        bytes.extend(frame(0, PADDED | end, 1, &[3, byte, 0, 0, 0]));
    }
    let mut client = TcpStream::connect(running.address()).await.unwrap();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(upstream.answer_one("ok").await.text(), body);
    let mut received = Vec::new();
    within("the response", async {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            match (head[3], head[8]) {
                (1, 1) => assert_eq!(payload[0], STATUS_200),
                (0, 1) => received.extend(payload),
                _ => {}
            }
            if head[3] <= 1 && head[8] == 1 && head[4] & END_STREAM != 0 {
                return;
            }
        }
    })
    .await;
    assert_eq!(received, b"ok");
}

#[tokio::test]
async fn a_pod_that_answers_early_is_heard_at_once_over_http2_too() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream).await;
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (body, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let start = format!(r#"{{"model":"{QWEN}","#);
    body.send(Ok(Frame::data(Bytes::from(start.clone())))).await.unwrap();
    let request = http::Request::post("http://models.example/v1/chat/completions")
        .body(StreamBody::new(ReceiverStream::new(frames)))
        .unwrap();
    let pod = async {
        let mut pod = upstream.accept().await;
        pod.read_head().await;
        pod.read_until(&start).await;
        pod.respond(429, "busy").await;
        pod
    };
    let (response, _pod) = tokio::join!(within("a response", sender.send_request(request)), pod);
    let response = response.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(within("the body", response.into_body().collect()).await.unwrap().to_bytes(), "busy");
    drop(body);
    connection.abort();
}
