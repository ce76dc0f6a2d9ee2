//! Model rewrites.

use forebay_grpc::proto::processing_request::Request;

use crate::support::client::{connect, exchange, get, post, post_with, read_response};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
/// Contains a character that JSON escapes.
const TARGET: &str = r#"served "v2""#;
const TARGET_JSON: &str = r#"served \"v2\""#;

/// Requests for Qwen are rewritten to [`TARGET`].
fn harness(upstream: &Upstream, picker: Option<&Picker>) -> Harness {
    let rule =
        format!("{{matches: [{{model: {{value: {QWEN}}}}}], targets: [{{modelRewrite: '{TARGET}'}}]}}");
    Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], picker.map(|picker| (picker.port(), "FailClose")))
        .rewrite("qwen", &rule)
}

fn with_target(body: &str) -> String {
    body.replace(QWEN, TARGET_JSON)
}

#[tokio::test]
async fn rewrites_the_request_and_restores_the_model_in_the_response() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let answer = |model: &str| {
        format!(
            r#"{{"id":"c","model":"{model}","choices":[{{"message":{{"content":"{{\"model\":\"x\"}}"}}}}]}}"#
        )
    };
    // In the member order of the OpenAI SDK, with escapes, and with two models.
    for body in [
        CHAT.to_owned(),
        format!(
            r#"{{"messages":[{{"content":"\"model\":\"{QWEN}\""}}],"temperature":0.7,"model" : "Qwen\/Qwen3-0.6B"}}"#
        ),
        format!(r#"{{"\u006dodel":"{QWEN}","n":12345678901234567890,"model":"{QWEN}"}}"#),
    ] {
        let expected = body
            .replace(r#""Qwen\/Qwen3-0.6B""#, &format!("\"{TARGET_JSON}\""))
            .replace(&format!("odel\":\"{QWEN}\""), &format!("odel\":\"{TARGET_JSON}\""));
        let pod = async {
            let mut pod = upstream.accept().await;
            let request = pod.read_request().await;
            let answer = answer(TARGET_JSON);
            pod.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            ))
            .await;
            request
        };
        let request = post_with("accept-encoding: gzip\r\n", &body);
        let (response, request) = tokio::join!(exchange(running.address(), request), pod);
        assert_eq!(request.text(), expected);
        assert_eq!(request.header("content-length"), Some(expected.len().to_string().as_str()));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("x-gateway-model-name"), Some(QWEN));
        assert_eq!(request.header("x-gateway-base-model-name"), Some(QWEN));
        assert_eq!(request.header("x-gateway-model-name-rewrite"), None);
        assert_eq!((response.status, response.text()), (200, answer(QWEN).as_str()));
        assert_eq!(response.head.header("content-length"), None);
    }
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
}

#[tokio::test]
async fn restores_the_model_in_every_event_of_a_stream_of_single_bytes() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let stream = |model: &str| {
        format!(
            "data: {{\"model\":\"{model}\",\"choices\":[{{\"delta\":{{\"content\":\"{{\\\"model\\\":\\\"x\\\"}}\"}}}}]}}\n\n\
             event: response.created\ndata: {{\"response\":{{\"model\":\"{model}\",\"tools\":[{{\"model\":\"x\"}}]}}}}\n\n\
             data: [DONE]\n\n"
        )
    };
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for byte in stream(TARGET_JSON).bytes() {
        pod.write([&b"1\r\n"[..], &[byte], b"\r\n"].concat()).await;
    }
    pod.write("0\r\n\r\n").await;
    assert_eq!(read_response(&mut client).await.text(), stream(QWEN));
}

/// Everything before the value is forwarded when its first byte arrives.
#[tokio::test]
async fn does_not_wait_for_the_rest_of_a_value() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
    for (sent, received) in [
        ("data: {\"id\":1,", "data: {\"id\":1,"),
        ("\"model\":\"ser", &*format!("\"model\":\"{QWEN}\"")),
        ("ved\",\"x\":1}\n\n", ",\"x\":1}\n\n"),
    ] {
        pod.write(sent).await;
        client.read_until(received).await;
    }
}

#[tokio::test]
async fn does_not_change_a_compressed_response() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    let body = r#"{"model":"not really compressed"}"#;
    pod.write(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: br\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let response = read_response(&mut client).await;
    assert_eq!(response.text(), body);
    assert_eq!(response.head.header("content-length"), Some(body.len().to_string().as_str()));
}

/// The pod has the first half when the second model arrives.
#[tokio::test]
async fn rewrites_a_second_equal_model_while_the_body_is_streamed() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start_with(|config| config.replay_bytes = 10).await;
    let first = format!(r#"{{"model":"{QWEN}","messages":[],"#);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "POST / HTTP/1.1\r\nhost: a\r\n";
    // With unknown length.
    let mut client = connect(running.address()).await;
    client.write(format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk(&first))).await;
    let mut pod = upstream.accept().await;
    let request = pod.read_head().await;
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    pod.read_until(&format!(r#"{TARGET_JSON}""#)).await;
    for piece in [r#""model":""#, "Qwen/Qwen3", r#"-0.6B"}"#] {
        client.write(chunk(piece)).await;
    }
    client.write("0\r\n\r\n").await;
    let rest = pod.read_until("0\r\n\r\n").await;
    let rest: String = rest.split("\r\n").skip(2).step_by(2).collect();
    assert!(rest.ends_with(&format!(r#""model":"{TARGET_JSON}"}}"#)), "{rest}");
    pod.respond(200, "ok").await;
    assert_eq!(read_response(&mut client).await.text(), "ok");

    // With an announced length: the shorter name is padded.
    let second = format!(r#""model":"{QWEN}"}}"#);
    let mut client = connect(running.address()).await;
    let length = first.len() + second.len();
    client.write(format!("{head}content-length: {length}\r\n\r\n{first}")).await;
    let mut pod = upstream.accept().await;
    let request = pod.read_head().await;
    let shorter = QWEN.len() - TARGET_JSON.len();
    assert_eq!(request.header("content-length"), Some((length - shorter).to_string().as_str()));
    pod.read_until(r#""messages":[],"#).await;
    client.write(second).await;
    pod.read_until(&format!(r#""model":"{TARGET_JSON}"{}}}"#, " ".repeat(shorter))).await;
    pod.respond(200, "ok").await;
    assert_eq!(read_response(&mut client).await.text(), "ok");

    // A different second model is an error.
    let mut client = connect(running.address()).await;
    client.write(format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk(&first))).await;
    let mut pod = upstream.accept().await;
    pod.read_until(r#""messages":[],"#).await;
    client.write(format!("{}0\r\n\r\n", chunk(&format!(r#""model":"{TINY}"}}"#)))).await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.code().as_str()), (400, "model_conflict"));
    assert!(!pod.read_to_end().await.ends_with(b"0\r\n\r\n"), "the request looks complete");
}

#[tokio::test]
async fn rewrites_a_form_whose_model_is_after_the_file() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let form = |model: &str| {
        format!(
            "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n\
             --XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--XX--\r\n",
            QWEN.repeat(10_000)
        )
    };
    let body = form(QWEN);
    let request = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=XX\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    assert!(request.text() == form(TARGET), "the form is wrong");
}

#[tokio::test]
async fn rejects_a_compressed_body_whose_model_would_be_rewritten() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).start().await;
    let compressed = zstd::encode_all(CHAT.as_bytes(), 1).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-encoding: zstd\r\ncontent-length: {}\r\n\r\n",
        compressed.len()
    );
    let response = exchange(running.address(), [head.as_bytes(), &compressed].concat()).await;
    assert_eq!((response.status, response.code().as_str()), (415, "unsupported_content_encoding"));
}

#[tokio::test]
async fn the_picker_gets_the_rewritten_body_and_the_target() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = harness(&upstream, Some(&picker)).start().await;
    let pod = async {
        let mut pod = upstream.accept().await;
        let request = pod.read_request().await;
        let answer = format!(r#"{{"model":"{TARGET_JSON}"}}"#);
        let length = answer.len();
        pod.write(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}"
        ))
        .await;
        request
    };
    let (response, request) = tokio::join!(exchange(running.address(), post(CHAT)), pod);
    assert_eq!(request.text(), with_target(CHAT));
    assert_eq!(request.header("x-gateway-model-name-rewrite"), None);
    // The body came back from the picker.
    assert_eq!(response.text(), format!(r#"{{"model":"{QWEN}"}}"#));
    let Request::RequestHeaders(headers) = picker.message().await else { panic!("not the headers first") };
    let headers = headers.headers.unwrap().headers;
    let told = headers.iter().find(|header| header.key == "x-gateway-model-name-rewrite");
    assert_eq!(told.map(|header| &header.raw_value[..]), Some(TARGET.as_bytes()));
    let Request::RequestBody(body) = picker.message().await else { panic!("no body") };
    assert_eq!((&body.body[..], body.end_of_stream), (&br#"{"model":"#[..], false));
    let ended = |seen: &Seen| match seen {
        Seen::Message(message) => {
            matches!(&message.request, Some(Request::RequestBody(piece)) if piece.end_of_stream)
        }
        Seen::Ended | Seen::Reset => false,
    };
    picker.until("the end of the body", ended).await;
}

#[tokio::test]
async fn retries_and_mirrors_use_the_rewritten_body() {
    let (upstream, copy) = (Upstream::bind().await, Upstream::bind().await);
    let rule = "{retry: {attempts: 1, codes: [503], backoff: 1ms}, \
        matches: [{path: {type: Exact, value: /v1/chat/completions}, headers: [{name: X-Gateway-Model-Name, value: food}]}], \
        filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}], \
        backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}";
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .rewrite("qwen", "{targets: [{modelRewrite: any-food}]}")
        .service("copy", copy.port(), "")
        .route("r", rule)
        .start()
        .await;
    let body = r#"{"messages":[],"model":"food"}"#;
    let pods = async {
        let mut pod = upstream.accept().await;
        let first = pod.read_request().await;
        pod.respond(503, "busy").await;
        let second = match pod.next_request().await {
            Some(again) => {
                pod.respond(200, "ok").await;
                again
            }
            None => upstream.answer_one("ok").await,
        };
        (first, second)
    };
    let (response, (first, second), mirrored) =
        tokio::join!(exchange(running.address(), post(body)), pods, copy.answer_one("ignored"));
    assert_eq!(response.text(), "ok");
    for request in [first, second, mirrored] {
        assert_eq!(request.text(), r#"{"messages":[],"model":"any-food"}"#);
        assert_eq!(request.header("x-gateway-model-name"), Some("food"));
    }
}

/// No rule names the alias. It is routed by the rule of its target, and is listed.
#[tokio::test]
async fn an_exact_rewrite_is_an_alias_of_its_target() {
    let (qwen, tiny) = (Upstream::bind().await, Upstream::bind().await);
    let alias = format!("{{matches: [{{model: {{value: food}}}}], targets: [{{modelRewrite: {QWEN}}}]}}");
    let lora = "{matches: [{model: {value: drink}}], targets: [{modelRewrite: my-lora}]}";
    let harness = || {
        Harness::new()
            .pool("qwen", QWEN, &[qwen.port()], None)
            .pool("tiny", TINY, &[tiny.port()], None)
            .rewrite("qwen", &format!("{alias}, {lora}"))
    };
    let body = r#"{"model":"food","messages":[]}"#;
    // Also if a policy defines the model names.
    for running in [harness().start().await, harness().policy(&[(QWEN, QWEN), (TINY, TINY)]).start().await] {
        let (response, request) =
            tokio::join!(exchange(running.address(), post(body)), qwen.answer_one("served"));
        assert_eq!((response.text(), request.text()), ("served", CHAT));
        assert_eq!(request.header("x-gateway-model-name"), Some("food"));
        assert_eq!(request.header("x-gateway-base-model-name"), Some(QWEN));
        let label = r#"forebay_gateway_requests_total{model="food",pool="llm-d/qwen",code="200"}"#;
        running.until_metric(label, 1.0).await;
    }

    let running = harness().start().await;
    let of_qwen = format!(
        r#"{{"object":"list","data":[{{"id":"{QWEN}","object":"model","owned_by":"vllm","root":"/models/qwen","parent":null}},
            {{"id":"my-lora","object":"model","root":"/loras/mine","parent":"{QWEN}"}}]}}"#
    );
    let of_tiny = format!(r#"{{"object":"list","data":[{{"id":"{TINY}"}}]}}"#);
    let pods = async { tokio::join!(qwen.answer_one(&of_qwen), tiny.answer_one(&of_tiny)) };
    let (list, _) = tokio::join!(get(running.address(), "/v1/models"), pods);
    let list = list.json();
    let model = |id: &str| list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).cloned();
    let food = model("food").unwrap();
    assert_eq!((&food["root"], &food["owned_by"]), (&"/models/qwen".into(), &"vllm".into()));
    let drink = model("drink").unwrap();
    assert_eq!((&drink["parent"], &drink["root"]), (&QWEN.into(), &"/loras/mine".into()));
    assert_eq!(get(running.address(), "/v1/models/food").await.status, 200);

    // An alias of an adapter that only the pods report.
    let body = r#"{"model":"drink","messages":[]}"#;
    let (response, request) =
        tokio::join!(exchange(running.address(), post(body)), qwen.answer_one("served"));
    assert_eq!((response.text(), request.text()), ("served", r#"{"model":"my-lora","messages":[]}"#));
    assert_eq!(request.header("x-gateway-base-model-name"), Some(QWEN));
}

#[tokio::test]
async fn trusted_clients_may_set_the_target() {
    let upstream = Upstream::bind().await;
    let running = harness(&upstream, None).with_trusted_listener().start().await;
    let one = "x-gateway-model-name-rewrite: alias-one\r\n";
    let canonical = "x-llm-d-model-name-rewrite: canonical\r\n";
    for (address, headers, model) in [
        (running.trusted_address(), one.to_owned(), "alias-one"),
        (running.trusted_address(), format!("{canonical}{one}"), "canonical"),
        (running.trusted_address(), String::new(), TARGET_JSON),
        (running.address(), format!("{canonical}{one}"), TARGET_JSON),
    ] {
        let request = post_with(&headers, CHAT);
        let (response, request) = tokio::join!(exchange(address, request), upstream.answer_one("ok"));
        assert_eq!((response.text(), request.text()), ("ok", CHAT.replace(QWEN, model).as_str()));
        for name in ["x-gateway-model-name-rewrite", "x-llm-d-model-name-rewrite"] {
            assert_eq!(request.header(name), None, "{name}");
        }
    }
    let bad = post_with("x-gateway-model-name-rewrite: \"\t\"\r\n", CHAT);
    let response = exchange(running.trusted_address(), bad).await;
    assert_eq!((response.status, response.code().as_str()), (400, "invalid_model_rewrite"));
}
