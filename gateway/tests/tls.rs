//! TLS listeners.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::client::get;
use crate::support::harness::{Harness, LISTENER, gateway};
use crate::support::tls::{Certificate, connect, secret};
use crate::support::upstream::Upstream;
use crate::support::{until, within};

/// HTTPS listeners on [`LISTENER`], by hostname and Secret, and a plain HTTP listener.
fn listeners(hosts: &[(&str, &str)]) -> String {
    let https: String = hosts
        .iter()
        .enumerate()
        .map(|(at, (host, secret))| {
            format!("\n  - {{name: https-{at}, protocol: HTTPS, port: {LISTENER}, hostname: '{host}', allowedRoutes: {{namespaces: {{from: All}}}}, tls: {{certificateRefs: [{{name: {secret}}}]}}}}")
        })
        .collect();
    gateway(&[("plain", LISTENER + 1)]) + https.trim_start_matches('\n') + "\n"
}

fn harness(hosts: &[(&str, &str)], web: &Upstream) -> Harness {
    Harness { manifests: listeners(hosts) }
        .service("web", web.port(), "")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
}

async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
    within("room to write", stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    within("an answer", async {
        while !answer.windows(2).any(|two| two == b"ok") && !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the stream ended");
        }
    })
    .await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn selects_the_certificate_by_server_name() {
    let web = Upstream::bind().await;
    let (a, b) = (Certificate::of("a.example"), Certificate::of("*.b.example"));
    let running = harness(&[("a.example", "a"), ("*.b.example", "b")], &web)
        .with(&a.secret("a"))
        .with(&b.secret("b"))
        .start()
        .await;
    for (name, certificate) in [("a.example", &a), ("x.b.example", &b)] {
        let mut stream = connect(running.address(), name, certificate, &["http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (answer, request) = tokio::join!(ask(&mut stream, name), web.answer_one("ok"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(request.header("host"), Some(name));
    }
    connect(running.address(), "a.example", &b, &[])
        .await
        .expect_err("a certificate of another authority is rejected");
    connect(running.address(), "c.example", &a, &[])
        .await
        .expect_err("there is no certificate for that name");
    // A connection must not be used for hosts of another listener.
    let mut stream = connect(running.address(), "a.example", &a, &["http/1.1"]).await.unwrap();
    let answer = ask(&mut stream, "x.b.example").await;
    assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("misdirected"), "{answer}");
}

#[tokio::test]
async fn handshakes_that_do_not_end_are_closed() {
    let web = Upstream::bind().await;
    let certificate = Certificate::of("a.example");
    let running = harness(&[("a.example", "a")], &web)
        .with(&certificate.secret("a"))
        .start_with(|config| {
            config.client_head_timeout = Duration::from_millis(200);
            config.client_idle_timeout = Duration::from_secs(1_000);
        })
        .await;
    // Nothing, the start of a record, and a record that announces more than follows.
    for start in [&b""[..], &[22, 3], &[22, 3, 1, 2, 0, 1, 0, 1]] {
        let mut client = TcpStream::connect(running.address()).await.unwrap();
        client.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end of the connection", client.read_to_end(&mut rest)).await;
    }
    running.until_metric("forebay_gateway_client_connections", 0.0).await;
}

#[tokio::test]
async fn http2_is_agreed_on() {
    let web = Upstream::bind().await;
    let a = Certificate::of("a.example");
    let running = harness(&[("a.example", "a")], &web).with(&a.secret("a")).start().await;
    let stream = connect(running.address(), "a.example", &a, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("https://a.example/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let (response, _) =
        tokio::join!(within("a response", sender.send_request(request)), web.answer_one("ok"));
    let body = within("the body", response.unwrap().into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "ok");
    connection.abort();
}

#[tokio::test]
async fn uses_a_new_certificate_for_the_next_connection() {
    let web = Upstream::bind().await;
    let (old, new) = (Certificate::of("a.example"), Certificate::of("a.example"));
    let harness = harness(&[("a.example", "a")], &web);
    let renewed = harness.manifests.clone() + "\n---\n" + &new.secret("a");
    let running = harness.with(&old.secret("a")).start().await;
    let mut before = connect(running.address(), "a.example", &old, &["http/1.1"]).await.unwrap();
    running.write(&renewed);
    until("the new certificate", || async {
        connect(running.address(), "a.example", &new, &[]).await.ok().map(drop)
    })
    .await;
    let (answer, _) = tokio::join!(ask(&mut before, "a.example"), web.answer_one("ok"));
    assert!(answer.starts_with("HTTP/1.1 200"), "the existing connection was closed: {answer}");
}

#[tokio::test]
async fn an_invalid_certificate_affects_only_its_listener() {
    let web = Upstream::bind().await;
    let (a, b) = (Certificate::of("a.example"), Certificate::of("b.example"));
    let hosts = [("a.example", "a"), ("b.example", "b"), ("c.example", "none"), ("d.example", "mixed")];
    let running = harness(&hosts, &web)
        .with(&a.secret("a"))
        .with(&secret("b", "no certificate", "no key"))
        .with(&secret("mixed", &a.certificate, &b.key))
        .start()
        .await;
    let mut stream = connect(running.address(), "a.example", &a, &[]).await.unwrap();
    let (answer, _) = tokio::join!(ask(&mut stream, "a.example"), web.answer_one("ok"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for name in ["b.example", "c.example", "d.example"] {
        connect(running.address(), name, &b, &[]).await.expect_err(name);
    }
    let plain = running.gateway.addresses()[&(LISTENER + 1)];
    let (response, _) = tokio::join!(get(plain, "/"), web.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    // Plain text clients are not served, and do not affect other clients.
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    drop(within("the end", stream.read_to_end(&mut rest)).await);
    assert!(!rest.starts_with(b"HTTP"), "plain text was answered");
}
