//! Services as backends.

use std::time::Duration;

use http_body_util::BodyExt as _;

use crate::support::client::{connect, exchange, get, post, read_response};
use crate::support::h2::{self, H2Backend};
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;
use crate::support::within;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

fn to(service: &str) -> String {
    format!("{{backendRefs: [{{name: {service}, port: 80}}]}}")
}

#[tokio::test]
async fn forwards_any_body_to_a_service() {
    let web = Upstream::bind().await;
    let running = Harness::new().service("web", web.port(), "").route("r", &to("web")).start().await;
    for (content_type, body) in
        [("text/plain", "no JSON"), ("application/json", "{broken"), ("multipart/form-data", "")]
    {
        let request = format!(
            "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (response, request) = tokio::join!(exchange(running.address(), request), web.answer_one("ok"));
        assert_eq!((response.status, request.text()), (200, body), "{content_type}");
        assert_eq!(request.header("x-gateway-model-name"), None);
    }
    // The path of the model list is also forwarded if no pool serves it.
    let (response, _) = tokio::join!(get(running.address(), "/v1/models"), web.answer_one("own"));
    assert_eq!(response.text(), "own");
}

#[tokio::test]
async fn routes_other_requests_to_a_service() {
    let (web, qwen) = (Upstream::bind().await, Upstream::bind().await);
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port()], None)
        .service("web", web.port(), "")
        .route("r", &to("web"))
        .start()
        .await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), qwen.answer_one("model"));
    assert_eq!(response.text(), "model");
    // Requests without a model or with another model use the route without a model.
    for body in [r#"{"model":"other"}"#, "{}", "no JSON", r#"{"model":7}"#] {
        let request = post(body);
        let (response, request) = tokio::join!(exchange(running.address(), request), web.answer_one("web"));
        assert_eq!((response.text(), request.text()), ("web", body));
    }
    // Two different models are always an error.
    let two = post(r#"{"model":"Qwen/Qwen3-0.6B","model":"other"}"#);
    assert_eq!(exchange(running.address(), two).await.code(), "model_conflict");
}

#[tokio::test]
async fn splits_traffic_by_weight() {
    let web = Upstream::bind().await;
    let serving = async {
        let mut connection = web.accept().await;
        while connection.next_request().await.is_some() {
            connection.respond(200, "ok").await;
        }
    };
    let rule = "{backendRefs: [{name: web, port: 80, weight: 3}, {name: none, port: 80, weight: 1}]}";
    let running = Harness::new().service("web", web.port(), "").route("r", rule).start().await;
    let mut client = connect(running.address()).await;
    let asking = async {
        let mut counts = (0, 0);
        for _ in 0..200 {
            client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            match read_response(&mut client).await.status {
                200 => counts.0 += 1,
                500 => counts.1 += 1,
                other => panic!("{other}"),
            }
        }
        counts
    };
    let counts = tokio::select! { counts = asking => counts, () = serving => panic!("the connection ended") };
    assert!(counts.0 > 100 && counts.1 > 15, "{counts:?}");
}

#[tokio::test]
async fn no_endpoint_is_a_503() {
    let running = Harness::new()
        .with("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: llm-d}\nspec: {ports: [{port: 80}]}")
        .route("r", &to("web"))
        .start()
        .await;
    let response = get(running.address(), "/").await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
}

#[tokio::test]
async fn http2_without_tls_where_the_app_protocol_says_so() {
    let mut web = H2Backend::start(|request| async move {
        let said = format!("{} {:?} {}", request.method(), request.version(), request.uri());
        let body = request.into_body().collect().await?.to_bytes();
        Ok(h2::text(format!("{said} {}", String::from_utf8_lossy(&body))))
    })
    .await;
    let running =
        Harness::new().service("web", web.port, "kubernetes.io/h2c").route("r", &to("web")).start().await;
    for body in ["one", "two"] {
        let request = format!("POST /p?q HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3\r\n\r\n{body}");
        let response = exchange(running.address(), request).await;
        assert_eq!(response.text(), format!("POST HTTP/2.0 http://a.example/p?q {body}"));
    }
    assert_eq!(web.connections(), 1, "requests share a connection");
    // The connection does not delay the shutdown.
    within("the gateway to end", running.gateway.shutdown()).await;
    web.a_connection_ends().await;
}

/// The backend responds without reading the body. The response is forwarded while the client is still sending.
#[tokio::test]
async fn an_http2_backend_that_answers_early_is_heard_at_once() {
    let web = H2Backend::start(|_| async {
        let mut response = h2::text("busy");
        *response.status_mut() = hyper::StatusCode::TOO_MANY_REQUESTS;
        Ok(response)
    })
    .await;
    let running =
        Harness::new().service("web", web.port, "kubernetes.io/h2c").route("r", &to("web")).start().await;
    let mut client = connect(running.address()).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nstart").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.text()), (429, "busy"));
}

#[tokio::test]
async fn an_idle_http2_connection_is_let_go() {
    let mut web = H2Backend::start(|_| async { Ok(h2::text("ok")) }).await;
    let running = Harness::new()
        .service("web", web.port, "kubernetes.io/h2c")
        .route("r", &to("web"))
        .start_with(|config| config.upstream_idle_timeout = Duration::from_millis(20))
        .await;
    assert_eq!(get(running.address(), "/").await.text(), "ok");
    web.a_connection_ends().await;
}
