//! What a pod could read differently from the gateway never reaches it.

use std::io::Write as _;

use crate::support::client::exchange;
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;

fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn form(head: &str, model: &str) -> Vec<u8> {
    format!("--XX\r\n{head}\r\n\r\n{model}\r\n--XX--\r\n").into_bytes()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bodies_with_two_readings_are_rejected() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let json = format!(r#"{{"model":"{QWEN}"}}"#).into_bytes();
    let multipart = "content-type: multipart/form-data; boundary=XX\r\n";
    let disposition = "Content-Disposition: form-data; name=\"model\"";
    let two_boundaries = "content-type: multipart/form-data; boundary=XX; boundary=YY\r\n";
    let extended_boundary = "content-type: multipart/form-data; boundary=XX; boundary*=YY\r\n";
    let charset = "content-type: multipart/form-data; boundary=XX; charset=utf-7\r\n";
    let plain_form = form(disposition, QWEN);
    let with_line = |line: &str| form(&format!("{disposition}{line}"), QWEN);
    for (name, headers, body, status, code) in [
        ("two boundaries", two_boundaries, plain_form.clone(), 400, "invalid_body"),
        ("an extended boundary", extended_boundary, plain_form.clone(), 400, "invalid_body"),
        ("a charset", charset, plain_form.clone(), 400, "invalid_body"),
        ("two names", multipart, with_line("; name=x"), 400, "invalid_body"),
        ("an extended name", multipart, with_line("; name*=utf-8''x"), 400, "invalid_body"),
        ("a continued name", multipart, with_line("; name*0=x"), 400, "invalid_body"),
        (
            "two dispositions",
            multipart,
            with_line("\r\nContent-Disposition: form-data; name=x"),
            400,
            "invalid_body",
        ),
        (
            "a bare line feed",
            multipart,
            with_line("\nContent-Disposition: form-data; name=x"),
            400,
            "invalid_body",
        ),
        (
            "urlencoded",
            "content-type: application/x-www-form-urlencoded\r\n",
            json.clone(),
            415,
            "unsupported_content_type",
        ),
        ("plain text", "content-type: text/plain\r\n", json.clone(), 415, "unsupported_content_type"),
        (
            "two types",
            "content-type: application/json\r\ncontent-type: text/plain\r\n",
            json.clone(),
            415,
            "unsupported_content_type",
        ),
        (
            "a form with a coding",
            "content-encoding: gzip\r\ncontent-type: multipart/form-data; boundary=XX\r\n",
            gzip(&plain_form),
            415,
            "unsupported_content_encoding",
        ),
        ("brotli that is JSON", "content-encoding: br\r\n", json.clone(), 400, "invalid_body"),
    ] {
        let response = exchange(running.address(), request("/v1/chat/completions", headers, &body)).await;
        assert_eq!((response.status, response.code().as_str()), (status, code), "{name}");
    }
    // The pool has one pod, whose first request is this one.
    let sent = request("/v1/audio/transcriptions", multipart, &plain_form);
    let (response, got) = tokio::join!(exchange(running.address(), sent), upstream.answer_one("ok"));
    assert_eq!((response.text(), got.line.as_str()), ("ok", "POST /v1/audio/transcriptions HTTP/1.1"));
}

/// The pod decodes the path before it matches. It gets the path by which the route was found.
#[tokio::test]
async fn a_path_has_one_spelling() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let json = format!(r#"{{"model":"{QWEN}"}}"#);
    for (path, expected) in [
        ("/v1/load%5Flora_adapter", "/v1/load_lora_adapter"),
        ("/%76%31//x/../chat/./completions?a=%5f//b", "/v1/chat/completions?a=%5f//b"),
        ("/v1/chat/completions/", "/v1/chat/completions/"),
        ("/a%20b", "/a%20b"),
    ] {
        let sent = request(path, "", json.as_bytes());
        let (response, got) = tokio::join!(exchange(running.address(), sent), upstream.answer_one("ok"));
        assert_eq!(response.text(), "ok", "{path}");
        assert_eq!(got.line, format!("POST {expected} HTTP/1.1"));
    }
    for path in
        ["/v1%2fchat/completions", "/v1/chat%5ccompletions", "/v1/chat%00", "/v1/chat%4", "/v1/chat%zz"]
    {
        let response = exchange(running.address(), request(path, "", json.as_bytes())).await;
        assert_eq!((response.status, response.code().as_str()), (400, "invalid_path"), "{path}");
    }
}
