//! Response bodies that are relayed through pickers.

use std::time::Duration;

use bytes::Bytes;
use forebay_gateway::ResponseBodies;
use forebay_grpc::proto::{
    BodySendMode, HeaderMutation, HeaderSendMode, HeaderValue, HeaderValueOption, HttpHeaders, HttpTrailers,
    Kind, ProcessingMode, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
    body_mutation::Mutation, processing_request::Request, processing_response,
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Status;

use crate::support::client::{exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{
    Fixed, Phases, Picker, Reply, Seen, echo, echo_response, immediate, pick, response_body_reply,
    response_headers_reply,
};
use crate::support::upstream::{Connection, Upstream};

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn harness(upstream: &Upstream, picker: &Picker, picker_timeout: Duration) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = picker_timeout)
        .await
}

const PATIENT: Duration = Duration::from_secs(5);
const IMPATIENT: Duration = Duration::from_millis(200);

/// A picker that replies to the pieces of the response body with the result of the function.
struct AtBody<F>(String, F);

impl<F: Fn(&[Bytes], bool) -> Vec<Reply> + Send + Sync + 'static> Phases for AtBody<F> {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn response_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
        (self.1)(seen, end_of_stream)
    }
}

async fn at_body(
    upstream: &Upstream,
    replies: impl Fn(&[Bytes], bool) -> Vec<Reply> + Send + Sync + 'static,
) -> Picker {
    Picker::start(AtBody(upstream.address().to_string(), replies)).await
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A stream whose start has reached the client.
async fn begun(running: &Running, upstream: &Upstream) -> (Connection, Connection) {
    let (mut client, mut pod) = running.forwarded(CHAT, upstream).await;
    pod.write(STREAM).await;
    assert_eq!(client.read_head().await.line, "HTTP/1.1 200 OK");
    (client, pod)
}

/// Each event reaches the client before the next one is sent.
async fn passes_event_by_event(client: &mut Connection, pod: &mut Connection) {
    for event in ["data: one\n\n", ": keep-alive\n\n", "data: [DONE]\n\n"] {
        pod.write(chunk(event)).await;
        client.read_until(event).await;
    }
    pod.write("0\r\n\r\n").await;
    client.read_until("0\r\n\r\n").await;
}

/// Sends one response with this body. Returns what the client got.
async fn whole(running: &Running, upstream: &Upstream, body: &str) -> String {
    let (mut client, mut pod) = running.forwarded(CHAT, upstream).await;
    let ((), response) = tokio::join!(pod.respond(200, body), read_response(&mut client));
    response.text().to_owned()
}

/// The client gets `event` and then the end of an aborted stream.
async fn is_broken_off(client: &mut Connection, pod: &mut Connection) {
    assert!(!client.read_to_end().await.ends_with(b"0\r\n\r\n"), "the response looks complete");
    pod.read_to_end().await;
}

fn failures(outcome: &str) -> String {
    format!(r#"forebay_gateway_picker_response_failures_total{{outcome="{outcome}"}}"#)
}

fn changed(text: &'static str, end_of_stream: bool) -> ProcessingResponse {
    let piece = StreamedBodyResponse { body: Bytes::from_static(text.as_bytes()), end_of_stream };
    response_body_reply(Some(Mutation::StreamedResponse(piece)))
}

#[tokio::test]
async fn relays_events_one_by_one() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    passes_event_by_event(&mut client, &mut pod).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
    // Every message about the response names the endpoint.
    let (mut bodies, mut of_response) = (Vec::new(), 0);
    loop {
        let Seen::Message(message) = picker.seen().await else { break };
        match message.request.unwrap() {
            Request::RequestHeaders(_) => {
                let config = message.protocol_config.unwrap();
                assert_eq!(config.response_body_mode(), BodySendMode::FullDuplexStreamed);
                continue;
            }
            Request::ResponseBody(body) => bodies.push(body),
            Request::ResponseHeaders(_) => {}
            _ => continue,
        }
        of_response += 1;
        let metadata = message.metadata_context.unwrap();
        let served = &metadata.filter_metadata["envoy.lb"].fields["x-gateway-destination-endpoint-served"];
        assert_eq!(served.kind, Some(Kind::StringValue(upstream.address().to_string())));
    }
    assert_eq!(of_response, bodies.len() + 1);
    assert!(bodies.last().unwrap().end_of_stream);
    let text: Vec<u8> = bodies.iter().flat_map(|body| body.body.to_vec()).collect();
    assert_eq!(text, b"data: one\n\n: keep-alive\n\ndata: [DONE]\n\n");
}

/// As the reference picker replies.
#[tokio::test]
async fn a_reply_without_a_mutation_keeps_the_piece() {
    let upstream = Upstream::bind().await;
    let picker = at_body(&upstream, |_, _| vec![Ok(response_body_reply(None))]).await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    passes_event_by_event(&mut client, &mut pod).await;
    drop(pod);
    let long = "x".repeat(3_000_000);
    assert!(whole(&running, &upstream, &long).await == long);
    assert_eq!(running.metric(&failures("bypassed")).await, 0.0);
}

/// As the llm-d picker replies to responses that are not streams.
#[tokio::test]
async fn a_picker_may_reply_after_the_whole_body() {
    let upstream = Upstream::bind().await;
    let picker = at_body(&upstream, |seen, end_of_stream| {
        if !end_of_stream {
            return Vec::new();
        }
        let whole = seen.concat();
        let last = whole.chunks(62_000).count() - 1;
        whole.chunks(62_000).enumerate().map(|(at, piece)| Ok(echo_response(piece, at == last))).collect()
    })
    .await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let long: String = (0..200_000).map(|number| format!("{number},")).collect();
    assert!(whole(&running, &upstream, &long).await == long);
}

#[tokio::test]
async fn a_picker_may_reply_to_the_headers_after_the_body() {
    /// Whether the body is sent back, or replied to piece by piece before.
    struct Late(String, bool);
    impl Phases for Late {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            Vec::new()
        }
        fn response_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
            let headers = Ok(response_headers_reply());
            match (self.1, end_of_stream) {
                (false, false) => vec![Ok(response_body_reply(None))],
                (false, true) => vec![Ok(response_body_reply(None)), headers],
                (true, false) => Vec::new(),
                (true, true) => vec![headers, Ok(echo_response(&seen.concat(), true))],
            }
        }
    }
    let upstream = Upstream::bind().await;
    for sends_back in [false, true] {
        let picker = Picker::start(Late(upstream.address().to_string(), sends_back)).await;
        let running = harness(&upstream, &picker, PATIENT).await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.write(STREAM).await;
        for piece in ["one", "two", "three"] {
            pod.write(chunk(piece)).await;
        }
        pod.write("0\r\n\r\n").await;
        assert_eq!(read_response(&mut client).await.text(), "onetwothree", "{sends_back}");
    }
}

#[tokio::test]
async fn the_client_gets_what_the_picker_changed() {
    let upstream = Upstream::bind().await;
    let shout = at_body(&upstream, |seen, end_of_stream| {
        let piece = [&seen.last().unwrap().to_ascii_uppercase()[..], b"!"].concat();
        vec![Ok(echo_response(&piece, end_of_stream))]
    })
    .await;
    let running = harness(&upstream, &shout, PATIENT).await;
    assert_eq!(whole(&running, &upstream, "hello").await, "HELLO!");

    let piece_by_piece = at_body(&upstream, |seen, _| {
        let mutation = match seen.len() {
            1 => Some(Mutation::Body(Bytes::from_static(b"another"))),
            2 => Some(Mutation::ClearBody(true)),
            _ => None,
        };
        vec![Ok(response_body_reply(mutation))]
    })
    .await;
    let running = harness(&upstream, &piece_by_piece, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("one")).await;
    client.read_until("another").await;
    pod.write(chunk("two")).await;
    pod.write(chunk("three")).await;
    client.read_until("three").await;
    pod.write("0\r\n\r\n").await;
    assert!(client.read_until("0\r\n\r\n").await.len() < 10);
}

#[tokio::test]
async fn the_rest_bypasses_a_picker_that_ended_its_side() {
    let upstream = Upstream::bind().await;
    let picker = at_body(&upstream, |seen, _| match seen.len() {
        1 => vec![Ok(echo_response(&seen[0], false))],
        // The stream ends without an error and without a reply to the second piece.
        _ => vec![Err(Status::ok(""))],
    })
    .await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    passes_event_by_event(&mut client, &mut pod).await;
    assert_eq!(running.metric(&failures("bypassed")).await, 0.0);
}

#[tokio::test]
async fn the_rest_bypasses_a_failed_picker_that_changed_nothing() {
    let upstream = Upstream::bind().await;
    let picker = at_body(&upstream, |seen, _| match seen.len() {
        1 => vec![Ok(echo_response(&seen[0][..4], false)), Err(Status::internal("oops"))],
        _ => Vec::new(),
    })
    .await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("data: one\n\n")).await;
    // In two chunks: the part that came back and the part that did not.
    client.read_until(": one\n\n").await;
    passes_event_by_event(&mut client, &mut pod).await;
    running.until_metric(&failures("bypassed"), 1.0).await;

    let picker = at_body(&upstream, |seen, _| match seen.len() {
        1 => vec![Ok(changed("changed", false)), Err(Status::internal("oops"))],
        _ => Vec::new(),
    })
    .await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("data: one\n\n")).await;
    is_broken_off(&mut client, &mut pod).await;
    running.until_metric(&failures("aborted"), 1.0).await;
    running.until_metric(r#"forebay_gateway_errors_total{code="picker_response_lost"}"#, 1.0).await;
}

#[tokio::test]
async fn a_picker_that_does_not_reply_does_not_block_a_response() {
    let upstream = Upstream::bind().await;
    let silent = at_body(&upstream, |_, _| Vec::new()).await;
    let running = harness(&upstream, &silent, IMPATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    passes_event_by_event(&mut client, &mut pod).await;
    running.until_metric(&failures("bypassed"), 1.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;

    let changing = at_body(&upstream, |seen, _| match seen.len() {
        1 => vec![Ok(changed("changed", false))],
        _ => Vec::new(),
    })
    .await;
    let running = harness(&upstream, &changing, IMPATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("data: one\n\n")).await;
    client.read_until("changed").await;
    pod.write(chunk("data: two\n\n")).await;
    is_broken_off(&mut client, &mut pod).await;
    running.until_metric(&failures("aborted"), 1.0).await;
}

#[tokio::test]
async fn an_upstream_failure_aborts_the_response() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("data: one\n\n")).await;
    client.read_until("one\n\n").await;
    drop(pod);
    assert!(!client.read_to_end().await.ends_with(b"0\r\n\r\n"), "the response looks complete");
    let label = format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="502"}}"#);
    running.until_metric(&label, 1.0).await;
    picker.until("the stream to end", |seen| matches!(seen, Seen::Reset | Seen::Ended)).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

/// Waits for longer than the picker timeout of an impatient gateway: such a gateway has given up twice meanwhile.
async fn longer_than_impatient() {
    let upstream = Upstream::bind().await;
    let silent = at_body(&upstream, |_, _| Vec::new()).await;
    let running = harness(&upstream, &silent, IMPATIENT).await;
    for given_up in [1.0, 2.0] {
        assert_eq!(whole(&running, &upstream, "late").await, "late");
        running.until_metric(&failures("bypassed"), given_up).await;
    }
}

/// The picker timeout does not run while the picker owes no reply.
#[tokio::test]
async fn a_slow_pod_does_not_cause_a_picker_timeout() {
    let upstream = Upstream::bind().await;
    for changes in [false, true] {
        let picker = at_body(&upstream, move |seen, end_of_stream| {
            let reply = if changes && !end_of_stream {
                changed("data: one\n\n", false)
            } else {
                echo_response(seen.last().unwrap(), end_of_stream)
            };
            vec![Ok(reply)]
        })
        .await;
        let running = harness(&upstream, &picker, IMPATIENT).await;
        let (mut client, mut pod) = begun(&running, &upstream).await;
        pod.write(chunk("data: 1\n\n")).await;
        client.read_until("data: ").await;
        longer_than_impatient().await;
        pod.write("0\r\n\r\n").await;
        client.read_until("0\r\n\r\n").await;
        for outcome in ["bypassed", "aborted"] {
            assert_eq!(running.metric(&failures(outcome)).await, 0.0, "{changes}");
        }
    }
}

#[tokio::test]
async fn bounds_the_bytes_that_a_picker_has() {
    const WINDOW_BYTES: usize = 16 << 20;
    const LARGEST_FRAME_BYTES: usize = 1 << 20;
    let upstream = Upstream::bind().await;
    let mut silent = at_body(&upstream, |_, _| Vec::new()).await;
    let running = harness(&upstream, &silent, IMPATIENT).await;
    let long = "x".repeat(WINDOW_BYTES + 4 * LARGEST_FRAME_BYTES);
    assert!(whole(&running, &upstream, &long).await == long);
    let mut sent = 0;
    while let Seen::Message(message) = silent.seen().await {
        if let Some(Request::ResponseBody(body)) = message.request {
            sent += body.body.len();
        }
    }
    assert!((1..WINDOW_BYTES + LARGEST_FRAME_BYTES).contains(&sent), "{sent} bytes were sent");
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn an_exhausted_hold_budget_bypasses_the_picker() {
    let upstream = Upstream::bind().await;
    let silent = at_body(&upstream, |_, _| Vec::new()).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((silent.port(), "FailClose")))
        .start_with(|config| config.hold_total_bytes = 1_000)
        .await;
    let long = "x".repeat(5_000);
    assert!(whole(&running, &upstream, &long).await == long);
    running.until_metric(&failures("bypassed"), 1.0).await;
}

#[tokio::test]
async fn an_eviction_aborts_a_relayed_response() {
    let upstream = Upstream::bind().await;
    let picker = at_body(&upstream, |seen, _| match seen.len() {
        1 => vec![Ok(echo_response(&seen[0], false))],
        _ => vec![Ok(immediate(429, "evicted"))],
    })
    .await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (mut client, mut pod) = begun(&running, &upstream).await;
    pod.write(chunk("data: one\n\n")).await;
    client.read_until("one\n\n").await;
    pod.write(chunk("data: two\n\n")).await;
    is_broken_off(&mut client, &mut pod).await;
    let label = format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="429"}}"#);
    running.until_metric(&label, 1.0).await;
}

/// The body was already being relayed when the picker replied.
#[tokio::test]
async fn an_immediate_response_replaces_a_response_that_was_not_started() {
    struct Deciding(String);
    impl Phases for Deciding {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            Vec::new()
        }
        fn response_body(&self, _: &[Bytes], _: bool) -> Vec<Reply> {
            vec![Ok(immediate(451, "not this"))]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Deciding(upstream.address().to_string())).await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let (response, _) =
        tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("bad words"));
    assert_eq!((response.status, response.text()), (451, "not this"));
}

/// Where a picker announces that it skips response bodies.
#[derive(Clone, Copy, Debug)]
enum Says {
    AtRequest,
    AtResponse,
}

#[tokio::test]
async fn a_picker_that_skips_bodies_gets_none() {
    struct Modest(String, Says);
    impl Modest {
        fn with_mode(mut reply: ProcessingResponse) -> Vec<Reply> {
            // It skips the request body with the same message.
            reply.mode_override = Some(ProcessingMode {
                request_body_mode: BodySendMode::None.into(),
                response_body_mode: BodySendMode::None.into(),
                ..ProcessingMode::default()
            });
            vec![Ok(reply)]
        }
    }
    impl Phases for Modest {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn request_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            match self.1 {
                Says::AtRequest => Self::with_mode(pick(&self.0)),
                Says::AtResponse => Vec::new(),
            }
        }
        fn request_body(&self, seen: &[Bytes], _: bool) -> Vec<Reply> {
            match self.1 {
                Says::AtRequest => Vec::new(),
                Says::AtResponse => self.whole_body(seen),
            }
        }
        fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            match self.1 {
                Says::AtRequest => vec![Ok(response_headers_reply())],
                Says::AtResponse => Self::with_mode(response_headers_reply()),
            }
        }
    }
    let upstream = Upstream::bind().await;
    for says in [Says::AtRequest, Says::AtResponse] {
        let mut picker = Picker::start(Modest(upstream.address().to_string(), says)).await;
        let running = harness(&upstream, &picker, PATIENT).await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.respond(200, "all of it").await;
        let response = read_response(&mut client).await;
        assert_eq!(response.text(), "all of it", "{says:?}");
        assert_eq!(response.head.header("content-length"), Some("9"), "{says:?}");
        let mut late = 0;
        loop {
            let Seen::Message(message) = picker.seen().await else { break };
            late += usize::from(matches!(message.request, Some(Request::ResponseBody(_))));
        }
        // The reply to the response may be late on a busy machine. The reply to the request cannot.
        assert!(late == 0 || matches!(says, Says::AtResponse), "{says:?}: it was sent {late} pieces");
        assert!(running.metric(&failures("bypassed")).await == 0.0);
    }
}

/// The picker never replies, and the gateway does not wait for it.
#[tokio::test]
async fn a_picker_that_skips_the_response_is_informed_without_waiting() {
    struct Skipping(String);
    impl Phases for Skipping {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn whole_body(&self, seen: &[Bytes]) -> Vec<Reply> {
            let mode_override = Some(ProcessingMode {
                request_body_mode: BodySendMode::FullDuplexStreamed.into(),
                response_header_mode: HeaderSendMode::Skip.into(),
                ..ProcessingMode::default()
            });
            let decision = ProcessingResponse { mode_override, ..pick(&self.0) };
            [decision].into_iter().chain(echo(&seen.concat())).map(Ok).collect()
        }
        fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            Vec::new()
        }
    }
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Skipping(upstream.address().to_string())).await;
    let running = harness(&upstream, &picker, Duration::from_secs(60)).await;
    assert_eq!(whole(&running, &upstream, "at once").await, "at once");
    let mut of_response = 0;
    while let Seen::Message(message) = picker.seen().await {
        assert!(!matches!(message.request, Some(Request::ResponseBody(_))), "it was sent the body");
        of_response += usize::from(matches!(message.request, Some(Request::ResponseHeaders(_))));
    }
    assert_eq!(of_response, 1);
}

#[tokio::test]
async fn the_flag_never_keeps_bodies_from_pickers() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.epp_response_body = ResponseBodies::Never)
        .await;
    assert_eq!(whole(&running, &upstream, "for the client alone").await, "for the client alone");
    let Seen::Message(first) = picker.seen().await else { panic!("no message") };
    assert_eq!(first.protocol_config.unwrap().response_body_mode(), BodySendMode::None);
    loop {
        let Seen::Message(message) = picker.seen().await else { break };
        assert!(!matches!(message.request, Some(Request::ResponseBody(_))), "the picker was sent the body");
    }
}

#[tokio::test]
async fn relays_trailers() {
    struct Adding(String);
    impl Phases for Adding {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn response_trailers(&self, trailers: &HttpTrailers) -> Vec<Reply> {
            let first = &trailers.trailers.as_ref().unwrap().headers[0];
            assert_eq!((first.key.as_str(), &first.raw_value[..]), ("x-checksum", &b"7"[..]));
            let header = HeaderValue {
                key: "x-added".into(),
                raw_value: Bytes::from_static(b"1"),
                ..HeaderValue::default()
            };
            let added = HeaderValueOption { header: Some(header), ..HeaderValueOption::default() };
            let header_mutation =
                Some(HeaderMutation { set_headers: vec![added], remove_headers: Vec::new() });
            let reply = processing_response::Response::ResponseTrailers(TrailersResponse { header_mutation });
            vec![Ok(ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() })]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Adding(upstream.address().to_string())).await;
    let running = harness(&upstream, &picker, PATIENT).await;
    let stream = tokio::net::TcpStream::connect(running.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://models.example/v1/chat/completions")
        .body(Full::new(Bytes::from_static(CHAT.as_bytes())))
        .unwrap();
    let pod = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n").await;
        pod.write("4\r\nbody\r\n0\r\nx-checksum: 7\r\n\r\n").await;
        pod
    };
    let (response, _pod) = tokio::join!(sender.send_request(request), pod);
    let body = response.unwrap().into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(
        (&trailers["x-checksum"], &trailers["x-added"]),
        (&"7".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(body.to_bytes(), "body");
    drop(sender);
    connection.await.unwrap().unwrap();
}
