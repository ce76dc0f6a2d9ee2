//! The protocol with endpoint pickers.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bytes::Bytes;
use forebay_grpc::names::TAKES_ENDPOINT_LIST;
use forebay_grpc::proto::{
    BodySendMode, HttpHeaders, ProcessingMode, ProcessingResponse, StreamedBodyResponse,
    body_mutation::Mutation, processing_request::Request,
};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::support::client::{connect, exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{
    Fixed, Phases, Picker, Reply, Seen, body_reply, echo, immediate, pick, set_headers,
};
use crate::support::upstream::Upstream;
use crate::support::within;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

async fn harness(ports: &[u16], picker: u16, failure_mode: &str) -> Running {
    Harness::new().pool("qwen", QWEN, ports, Some((picker, failure_mode))).start().await
}

/// A port without a listener.
async fn closed_port() -> u16 {
    Upstream::bind().await.port()
}

/// Replies to the whole body with the result of the function.
struct Replies<F>(F);

impl<F: Fn(&[Bytes]) -> Vec<Reply> + Send + Sync + 'static> Phases for Replies<F> {
    fn destination(&self) -> String {
        String::new()
    }

    fn whole_body(&self, seen: &[Bytes]) -> Vec<Reply> {
        self.0(seen)
    }
}

fn replies(given: impl Fn(&[Bytes]) -> Vec<ProcessingResponse> + Send + Sync + 'static) -> impl Phases {
    Replies(move |seen: &[Bytes]| given(seen).into_iter().map(Ok).collect())
}

fn count(result: &str) -> String {
    format!(r#"forebay_gateway_picks_total{{pool="llm-d/qwen",result="{result}"}}"#)
}

#[tokio::test]
async fn sends_the_request_as_the_protocol_requires() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let (_, request) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(
        request.header("x-gateway-destination-endpoint"),
        Some(upstream.address().to_string().as_str())
    );
    let Seen::Message(first) = picker.seen().await else { panic!("no message") };
    assert!(first.metadata_context.is_some());
    let config = first.protocol_config.unwrap();
    assert_eq!(config.request_body_mode(), BodySendMode::FullDuplexStreamed);
    let Some(Request::RequestHeaders(headers)) = first.request else { panic!("not the headers first") };
    assert!(!headers.end_of_stream);
    let headers = headers.headers.unwrap().headers;
    assert!(headers.iter().all(|header| header.value.is_empty()), "values must be in raw_value");
    let value =
        |key: &str| headers.iter().find(|header| header.key == key).map(|header| &header.raw_value[..]);
    assert_eq!(value(":method"), Some(&b"POST"[..]));
    assert_eq!(value(":path"), Some(&b"/v1/chat/completions"[..]));
    assert_eq!(value(":authority"), Some(&b"models.example"[..]));
    assert_eq!(value("x-gateway-base-model-name"), Some(QWEN.as_bytes()));
    let Request::RequestBody(body) = picker.message().await else { panic!("no body") };
    assert_eq!((&body.body[..], body.end_of_stream), (CHAT.as_bytes(), true));
    let Request::ResponseHeaders(headers) = picker.message().await else { panic!("no response headers") };
    assert_eq!(headers.headers.unwrap().headers[0].raw_value, "200");
    let Request::ResponseBody(body) = picker.message().await else { panic!("no response body") };
    assert_eq!((&body.body[..], body.end_of_stream), (&b"ok"[..], true));
    assert!(matches!(picker.seen().await, Seen::Ended));
}

#[tokio::test]
async fn sends_a_large_body_completely_and_in_order() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let text: String = (0..400_000).map(|number| format!("{number},")).collect();
    let body = format!(r#"{{"prompt":"{text}","model":"{QWEN}"}}"#);
    let request = post(&body);
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.status, 200);
    // The picker sent the body back, so the pod gets its copy.
    assert!(request.body == body.as_bytes(), "the body was changed");
}

#[tokio::test]
async fn the_failure_mode_applies_to_an_unreachable_picker() {
    let upstream = Upstream::bind().await;
    let running = harness(&[upstream.port()], closed_port().await, "FailOpen").await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    running.until_metric(&count("failed_open"), 1.0).await;

    let running = harness(&[upstream.port()], closed_port().await, "FailClose").await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "picker_unavailable"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
    running.until_metric(&count("failed_closed"), 1.0).await;
}

#[tokio::test]
async fn fails_open_when_a_picker_fails_after_it_got_the_body() {
    struct Failing;
    impl Phases for Failing {
        fn destination(&self) -> String {
            String::new()
        }
        fn whole_body(&self, _: &[Bytes]) -> Vec<Reply> {
            // An incomplete rewritten body, then an error: it must not be used.
            let half = StreamedBodyResponse { body: Bytes::from_static(b"half"), end_of_stream: false };
            vec![Ok(body_reply(Some(Mutation::StreamedResponse(half)))), Err(Status::internal("no pods"))]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Failing).await;
    let running = harness(&[upstream.port()], picker.port(), "FailOpen").await;
    let (response, request) =
        tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!((response.text(), request.text()), ("ok", CHAT));
}

#[tokio::test]
async fn a_picker_that_does_not_reply_times_out() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(replies(|_| Vec::new())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_millis(50))
        .await;
    assert_eq!(exchange(running.address(), post(CHAT)).await.code(), "picker_unavailable");
}

#[tokio::test]
async fn asks_the_next_replica_when_one_is_unreachable() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Fixed::at(upstream.address())).await;
    let gone = closed_port().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .with(&format!(
            r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: qwen-epp-2, namespace: llm-d, labels: {{kubernetes.io/service-name: qwen-epp}}}}
addressType: IPv4
ports: [{{name: grpc, port: {gone}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"#
        ))
        .start()
        .await;
    for _ in 0..4 {
        let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
        assert_eq!(response.status, 200);
    }
    // It is avoided after the first attempt.
    running.until_metric(r#"forebay_gateway_retries_total{reason="picker_unreachable"}"#, 1.0).await;
}

#[tokio::test]
async fn forwards_an_immediate_response() {
    let picker = Picker::start(replies(|_| vec![immediate(429, "shed")])).await;
    let running = harness(&[1], picker.port(), "FailOpen").await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.text()), (429, "shed"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
    running.until_metric(&count("rejected"), 1.0).await;
}

/// Otherwise the Forebay picker would return only one endpoint.
#[tokio::test]
async fn announces_support_for_endpoint_lists() {
    struct Told(String, Arc<AtomicBool>);
    impl Phases for Told {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn opened(&self, metadata: &MetadataMap) {
            self.1.store(metadata.contains_key(TAKES_ENDPOINT_LIST), Ordering::Relaxed);
        }
    }
    let upstream = Upstream::bind().await;
    let told = Arc::new(AtomicBool::new(false));
    let picker = Picker::start(Told(upstream.address().to_string(), told.clone())).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!((response.text(), told.load(Ordering::Relaxed)), ("ok", true));
}

#[tokio::test]
async fn tries_the_next_endpoint_when_a_connection_is_refused() {
    let upstream = Upstream::bind().await;
    let gone = closed_port().await;
    let list = format!("127.0.0.1:{gone},127.0.0.1:{}", upstream.port());
    let picker = Picker::start(Fixed(list)).await;
    let running = harness(&[gone, upstream.port()], picker.port(), "FailClose").await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    running.until_metric(r#"forebay_gateway_retries_total{reason="connect_failed"}"#, 1.0).await;
}

#[tokio::test]
async fn ignores_endpoints_that_are_not_ready_members() {
    let (member, stranger) = (Upstream::bind().await, Upstream::bind().await);
    let list = format!("{},{}", stranger.address(), member.address());
    let picker = Picker::start(Fixed(list)).await;
    let running = harness(&[member.port()], picker.port(), "FailOpen").await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), member.answer_one("ok"));
    assert_eq!(response.text(), "ok");

    let picker = Picker::start(Fixed::at(stranger.address())).await;
    let running = harness(&[member.port()], picker.port(), "FailOpen").await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
}

/// The reference picker replies to each piece of the body without a mutation, even before its reply to the headers.
#[tokio::test]
async fn accepts_a_picker_that_does_not_send_the_body_back() {
    struct Lightweight(String);
    impl Phases for Lightweight {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn request_body(&self, _: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
            let unchanged = body_reply(None);
            if end_of_stream { vec![Ok(pick(&self.0)), Ok(unchanged)] } else { vec![Ok(unchanged)] }
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Lightweight(upstream.address().to_string())).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let body = format!(r#"{{"prompt":"{}","model":"{QWEN}"}}"#, "x".repeat(600_000));
    let request = post(&body);
    let (response, request) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.status, 200);
    assert!(request.body == body.as_bytes(), "the body was changed");
}

#[tokio::test]
async fn forwards_the_rewritten_body_and_headers() {
    const REWRITTEN: &str = r#"{"model":"adapter-v2","messages":[],"longer":true}"#;
    let upstream = Upstream::bind().await;
    let destination = upstream.address().to_string();
    let picker = Picker::start(replies(move |_| {
        let headers = [
            ("x-gateway-destination-endpoint", destination.as_str()),
            ("x-added", "1"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            (":path", "/elsewhere"),
        ];
        let mut replies = vec![set_headers(&headers)];
        let (first, second) = REWRITTEN.split_at(20);
        for (piece, end_of_stream) in [(first, false), (second, true)] {
            let piece = StreamedBodyResponse { body: Bytes::from_static(piece.as_bytes()), end_of_stream };
            replies.push(body_reply(Some(Mutation::StreamedResponse(piece))));
        }
        replies
    }))
    .await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let (response, request) =
        tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!((response.status, request.text()), (200, REWRITTEN));
    assert_eq!(request.header("content-length"), Some(REWRITTEN.len().to_string().as_str()));
    assert_eq!((request.header("x-added"), request.header("transfer-encoding")), (Some("1"), None));
    assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
}

#[tokio::test]
async fn a_picker_may_end_its_stream_after_the_decision() {
    struct Leaving(String);
    impl Phases for Leaving {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn whole_body(&self, seen: &[Bytes]) -> Vec<Reply> {
            let mut replies = vec![Ok(pick(&self.0))];
            replies.extend(echo(&seen.concat()).into_iter().map(Ok));
            replies
        }
        fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            vec![Err(Status::unavailable("restarting"))]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Leaving(upstream.address().to_string())).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}

/// A picker whose handling of bodies can be changed between requests.
struct Changing {
    destination: String,
    mind: Arc<AtomicU8>,
}

/// Decides on the headers and skips the body.
const SKIPS: u8 = 0;
/// Replies after it has the whole body.
const WAITS: u8 = 1;
/// Replies to the headers without a decision, and decides with the body.
const ANSWERS_TWICE: u8 = 2;

/// Never replies.
const SILENT: u8 = 3;

impl Phases for Changing {
    fn destination(&self) -> String {
        self.destination.clone()
    }

    fn request_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
        match self.mind.load(Ordering::SeqCst) {
            SKIPS => {
                let request_body_mode = BodySendMode::None.into();
                let mode_override = Some(ProcessingMode { request_body_mode, ..ProcessingMode::default() });
                vec![Ok(ProcessingResponse { mode_override, ..pick(&self.destination) })]
            }
            ANSWERS_TWICE => vec![Ok(set_headers(&[]))],
            _ => Vec::new(),
        }
    }

    fn request_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
        match self.mind.load(Ordering::SeqCst) {
            WAITS | ANSWERS_TWICE if end_of_stream => self.whole_body(seen),
            _ => Vec::new(),
        }
    }
}

/// Sends one request. Returns whether the picker was sent its body.
async fn body_is_sent(running: &Running, upstream: &Upstream, picker: &mut Picker) -> bool {
    let (response, request) =
        tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!((response.status, request.text()), (200, CHAT));
    let mut sent = false;
    loop {
        match picker.seen().await {
            Seen::Message(message) => sent |= matches!(message.request, Some(Request::RequestBody(_))),
            Seen::Ended | Seen::Reset => return sent,
        }
    }
}

/// A reply may be late on a busy machine. Then the body is sent anyway.
async fn until_body_is_not_sent(running: &Running, upstream: &Upstream, picker: &mut Picker) {
    within("a request without its body", async { while body_is_sent(running, upstream, picker).await {} })
        .await;
}

#[tokio::test]
async fn delays_bodies_for_pickers_that_skip_them() {
    let upstream = Upstream::bind().await;
    let mind = Arc::new(AtomicU8::new(SKIPS));
    let phases = Changing { destination: upstream.address().to_string(), mind: mind.clone() };
    let mut picker = Picker::start(phases).await;
    let running = harness(&[upstream.port()], picker.port(), "FailClose").await;
    assert!(body_is_sent(&running, &upstream, &mut picker).await, "the picker has not skipped a body yet");
    for other in [WAITS, ANSWERS_TWICE] {
        until_body_is_not_sent(&running, &upstream, &mut picker).await;
        mind.store(other, Ordering::SeqCst);
        for _ in 0..2 {
            assert!(body_is_sent(&running, &upstream, &mut picker).await);
        }
        mind.store(SKIPS, Ordering::SeqCst);
    }
}

/// After a failure, another version of the picker may run.
#[tokio::test]
async fn sends_the_body_again_after_a_picker_failed() {
    let upstream = Upstream::bind().await;
    let mind = Arc::new(AtomicU8::new(SKIPS));
    let phases = Changing { destination: upstream.address().to_string(), mind: mind.clone() };
    let mut picker = Picker::start(phases).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_millis(500))
        .await;
    until_body_is_not_sent(&running, &upstream, &mut picker).await;
    mind.store(SILENT, Ordering::SeqCst);
    assert_eq!(exchange(running.address(), post(CHAT)).await.code(), "picker_unavailable");
    picker.until("the stream's end", |seen| matches!(seen, Seen::Ended | Seen::Reset)).await;
    mind.store(SKIPS, Ordering::SeqCst);
    assert!(body_is_sent(&running, &upstream, &mut picker).await);
}

#[tokio::test]
async fn a_pod_that_joined_while_the_body_arrived_can_be_picked() {
    let (old, new) = (Upstream::bind().await, Upstream::bind().await);
    let mut picker = Picker::start(Fixed::at(new.address())).await;
    let port = picker.port();
    let pool = |ports: &[u16]| Harness::new().pool("qwen", QWEN, ports, Some((port, "FailClose")));
    let mut running = pool(&[old.port()]).start().await;
    let request = post(CHAT);
    let (first, rest) = request.split_at(request.len() - 1);
    let mut client = connect(running.address()).await;
    client.write(first).await;
    picker.until("the headers", |seen| matches!(seen, Seen::Message(_))).await;
    let changes = Cell::new(0);
    let both = pool(&[old.port(), new.port()]).manifests;
    running.rewrite(&both, |_| changes.replace(changes.get() + 1) > 0).await;
    client.write(rest).await;
    let (response, _) = tokio::join!(read_response(&mut client), new.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}
