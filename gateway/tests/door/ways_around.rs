//! No way around a policy: each test is one that works elsewhere.

use std::io::Write as _;

use super::*;
use crate::support::client::{connect, read_response};

fn fields() -> String {
    format!("{}, {BY_MODEL}", keys(""))
}

/// The request gets this status, and no pod sees it.
async fn assert_rejected(harness: Harness, pods: [&mut Pod; 2], requests: &[(String, u16)]) {
    let running = harness.start().await;
    for (request, status) in requests {
        let response = exchange(running.address(), request).await;
        assert_eq!(response.status, *status, "{request}: {}", response.text());
    }
    for pod in pods {
        let seen = pod.seen();
        assert!(seen.is_empty(), "{seen:?}");
    }
}

async fn pods() -> (Pod, Pod) {
    (Pod::start(&[QWEN, "lora"]).await, Pod::start(&[TINY]).await)
}

fn send(line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{line} HTTP/1.1\r\nhost: models.example\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn spellings_of_headers_and_paths() {
    let (mut qwen, mut tiny) = pods().await;
    let (sales, chat) = (bearer(SALES), "POST /v1/chat/completions");
    let requests = [
        (send(chat, "", &body(TINY)), 401),
        (send(chat, "AuThOrIzAtIoN: Bearer wrong\r\n", &body(TINY)), 401),
        (send(chat, &(bearer("wrong") + &sales), &body(QWEN)), 401),
        (send(chat, &(sales.clone() + "connection: authorization\r\n"), &body(QWEN)), 401),
        (send(chat, &(sales.clone() + "x-gateway-model-name: Qwen/Qwen3-0.6B\r\n"), &body(TINY)), 403),
        (send("POST /v1/chat/completions/", &sales, &body(TINY)), 403),
        (send("POST //v1/./chat%2Fcompletions", &sales, &body(TINY)), 400),
        (send("POST /v1/%63hat/completions", &sales, &body(TINY)), 403),
        (send("POST /v1/models/../chat/completions", &sales, &body(TINY)), 403),
        (send("POST /v1/models", &sales, &body(TINY)), 403),
        (send("GET /v1/models/", "", ""), 401),
        (send("OPTIONS /v1/chat/completions", "access-control-request-method: POST\r\n", &body(TINY)), 401),
    ];
    let harness = door(&qwen, &tiny, &fields());
    assert_rejected(harness, [&mut qwen, &mut tiny], &requests).await;
}

#[tokio::test]
async fn spellings_of_the_model() {
    let (mut qwen, mut tiny) = pods().await;
    let (sales, chat) = (bearer(SALES), "POST /v1/chat/completions");
    let both = |first: &str, second: &str| format!(r#"{{"model":"{first}","model":"{second}"}}"#);
    let escaped = format!(r#"{{"\u006dodel":"{TINY}"}}"#);
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{TINY}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--b--\r\n"
    );
    let multipart = "content-type: multipart/form-data; boundary=b\r\n";
    let requests = [
        (send(chat, &sales, &both(QWEN, TINY)), 400),
        (send(chat, &sales, &both(TINY, QWEN)), 400),
        (send(chat, &sales, &escaped), 403),
        (send(chat, &sales, &body("lora")), 403),
        (send("POST /v1/audio/transcriptions", &(sales.clone() + multipart), &form), 403),
        (send("GET /v1/chat/completions", &sales, &body(TINY)), 403),
        (send("PUT /v1/chat/completions", &sales, &body(TINY)), 403),
    ];
    let harness = door(&qwen, &tiny, &fields());
    assert_rejected(harness, [&mut qwen, &mut tiny], &requests).await;
}

#[tokio::test]
async fn a_compressed_body() {
    let (mut qwen, mut tiny) = pods().await;
    let running = door(&qwen, &tiny, &fields()).start().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body(TINY).as_bytes()).unwrap();
    let compressed = gzip.finish().unwrap();
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: models.example\r\ncontent-encoding: gzip\r\n{}content-length: {}\r\n\r\n",
        bearer(SALES),
        compressed.len()
    )
    .into_bytes();
    request.extend(compressed);
    assert_eq!(outcome(&exchange(running.address(), request).await), is(403, "permission_denied"));
    assert!(qwen.seen().is_empty() && tiny.seen().is_empty());
}

/// A key in a trailer comes after the decision.
#[tokio::test]
async fn trailers() {
    let (mut qwen, mut tiny) = pods().await;
    let text = body(QWEN);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: models.example\r\ntransfer-encoding: chunked\r\n\
         trailer: authorization\r\n\r\n{:x}\r\n{text}\r\n0\r\nauthorization: Bearer {SALES}\r\n\r\n",
        text.len()
    );
    let harness = door(&qwen, &tiny, &fields());
    assert_rejected(harness, [&mut qwen, &mut tiny], &[(request, 401)]).await;
}

/// A key is for one request, not for its connection.
#[tokio::test]
async fn pipelining() {
    let (mut qwen, mut tiny) = pods().await;
    let running = door(&qwen, &tiny, &fields()).start().await;
    let mut client = connect(running.address()).await;
    let chat = "POST /v1/chat/completions";
    let first = send(chat, &bearer(SALES), &body(QWEN));
    let second = send(chat, "", &body(QWEN));
    let third = send(chat, &bearer(SALES), &body(TINY));
    client.write(first + &second + &third).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(read_response(&mut client).await.status);
    }
    assert_eq!(statuses, [200, 401, 403]);
    assert_eq!((qwen.seen().len(), tiny.seen().len()), (1, 0));
}

#[tokio::test]
async fn an_upgrade() {
    let (mut qwen, mut tiny) = pods().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let harness = door(&qwen, &tiny, &fields());
    let running = harness.start().await;
    let response = exchange(running.address(), send("GET /v1/realtime", upgrade, "")).await;
    assert!(matches!(response.status, 401 | 501), "{}", response.status);
    assert!(qwen.seen().is_empty() && tiny.seen().is_empty());
}

/// An alias is not in the list of the key, and the model behind it is another one.
#[tokio::test]
async fn an_alias() {
    let (mut qwen, mut tiny) = pods().await;
    let alias = format!("{{matches: [{{model: {{value: fast}}}}], targets: [{{modelRewrite: {TINY}}}]}}");
    let harness = door(&qwen, &tiny, &fields()).rewrite("tiny", &alias);
    let request = send("POST /v1/chat/completions", &bearer(LABS), &body("fast"));
    assert_rejected(harness, [&mut qwen, &mut tiny], &[(request, 403)]).await;
}

/// A rule can read the model that the pod is asked for.
#[tokio::test]
async fn a_rewrite() {
    let (mut qwen, mut tiny) = pods().await;
    let to_secret =
        format!("{{matches: [{{model: {{value: {QWEN}}}}}], targets: [{{modelRewrite: secret}}]}}");
    let rule = "authorization: {action: Deny, policy: {matchExpressions: [\"llm.targetModel == 'secret'\"]}}";
    let harness = door(&qwen, &tiny, &format!("{}, {rule}", keys(""))).rewrite("qwen", &to_secret);
    let request = send("POST /v1/chat/completions", &bearer(SALES), &body(QWEN));
    assert_rejected(harness, [&mut qwen, &mut tiny], &[(request, 403)]).await;
}

/// Clients of a trusted listener may name the model that is sent. They need to be allowed to use it.
#[tokio::test]
async fn a_header_that_rewrites() {
    let (mut qwen, tiny) = pods().await;
    let running = door(&qwen, &tiny, &fields()).with_trusted_listener().start().await;
    let rewrite = |model: &str| format!("{}x-gateway-model-name-rewrite: {model}\r\n", bearer(SALES));
    let response = ask(running.trusted_address(), &rewrite("lora"), QWEN).await;
    assert_eq!(outcome(&response), is(403, "permission_denied"));
    assert!(qwen.seen().is_empty());
    assert_eq!(ask(running.address(), &rewrite("lora"), QWEN).await.status, 200);
    assert_eq!(qwen.seen()[0].text(), body(QWEN));
}

/// A policy of the Gateway holds at all its listeners; a policy of a listener at this one.
#[tokio::test]
async fn a_second_listener() {
    let (qwen, tiny) = pods().await;
    let running = door(&qwen, &tiny, &keys("")).with_trusted_listener().start().await;
    for address in [running.address(), running.trusted_address()] {
        assert_eq!(ask(address, "", QWEN).await.status, 401);
        assert_eq!(ask(address, &bearer(SALES), QWEN).await.status, 200);
    }
    let of_listener = door(&qwen, &tiny, &keys("")).manifests.replace(
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}]",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway, sectionName: mesh}]",
    );
    let harness = Harness { manifests: of_listener };
    let running = harness.with_trusted_listener().start().await;
    assert_eq!(ask(running.address(), "", QWEN).await.status, 200);
    assert_eq!(ask(running.trusted_address(), "", QWEN).await.status, 401);
}

/// Copies are not sent for callers that are rejected, and never with a key.
#[tokio::test]
async fn a_mirror() {
    let (mut web, mut shadow) = (Pod::start(&["web"]).await, Pod::start(&["shadow"]).await);
    let mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]";
    let running = Harness::new()
        .service("web", web.port, "")
        .service("shadow", shadow.port, "")
        .route("r", &format!("{{{mirror}, backendRefs: [{{name: web, port: 80}}]}}"))
        .with(&secret("agentgateway-system"))
        .with(&policy("agentgateway-system", "door", GATEWAY, &keys("")))
        .start()
        .await;
    assert_eq!(ask(running.address(), "", QWEN).await.status, 401);
    assert_eq!(ask(running.address(), &bearer(SALES), QWEN).await.status, 200);
    running.until_metric(r#"forebay_gateway_mirrors_total{result="sent"}"#, 1.0).await;
    let copy = crate::support::within("the copy", shadow.requests.recv()).await.unwrap();
    assert_eq!((copy.header("authorization"), shadow.seen().len(), web.seen().len()), (None, 0, 1));
}
