//! Orders and forms of replies that existing pickers use.

use bytes::Bytes;
use forebay_grpc::proto::{HttpHeaders, ProcessingResponse, processing_response::Response};
use tonic::Status;

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Phases, Picker, Reply, body_reply, echo, pick};
use crate::support::upstream::Upstream;

/// A picker that replies to the whole body with the result of the function for a decision and the body.
struct Whole<F>(String, F);

impl<F: Fn(&str, &[u8]) -> Vec<Reply> + Send + Sync + 'static> Phases for Whole<F> {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn whole_body(&self, seen: &[Bytes]) -> Vec<Reply> {
        (self.1)(&self.0, &seen.concat())
    }
}

async fn harness(
    upstream: &Upstream,
    failure_mode: &str,
    replies: impl Fn(&str, &[u8]) -> Vec<Reply> + Send + Sync + 'static,
) -> (Running, Picker) {
    let picker = Picker::start(Whole(upstream.address().to_string(), replies)).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), failure_mode)))
        .start()
        .await;
    (running, picker)
}

fn body() -> String {
    format!(r#"{{"model":"{QWEN}","prompt":"{}"}}"#, "x".repeat(150_000))
}

/// A request is forwarded with its body unchanged.
async fn passes(running: &Running, upstream: &Upstream) {
    let body = body();
    let (response, request) =
        tokio::join!(exchange(running.address(), post(&body)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    assert!(request.body == body.as_bytes(), "the body was changed");
}

fn sent_back(body: &[u8]) -> impl Iterator<Item = Reply> + use<> {
    echo(body).into_iter().map(Ok)
}

/// A stream that ends without an error.
fn end() -> Reply {
    Err(Status::ok(""))
}

#[tokio::test]
async fn accepts_a_repeated_end_of_the_body() {
    let upstream = Upstream::bind().await;
    let (running, _picker) = harness(&upstream, "FailClose", |destination, body| {
        let back: Vec<_> = echo(body);
        let last = back.last().unwrap().clone();
        let twice = back.into_iter().chain([last]).map(Ok);
        [Ok(pick(destination))].into_iter().chain(twice).collect()
    })
    .await;
    passes(&running, &upstream).await;
}

#[tokio::test]
async fn accepts_the_body_before_the_decision() {
    let upstream = Upstream::bind().await;
    let (running, _picker) = harness(&upstream, "FailClose", |destination, body| {
        sent_back(body).chain([Ok(pick(destination))]).collect()
    })
    .await;
    passes(&running, &upstream).await;
    // Piece by piece, with the decision at the end.
    struct Last(String);
    impl Phases for Last {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn request_body(&self, _: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
            let decision = end_of_stream.then(|| Ok(pick(&self.0)));
            [Ok(body_reply(None))].into_iter().chain(decision).collect()
        }
    }
    let picker = Picker::start(Last(upstream.address().to_string())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start()
        .await;
    passes(&running, &upstream).await;
}

#[tokio::test]
async fn accepts_a_destination_in_the_value_field() {
    let upstream = Upstream::bind().await;
    let (running, _picker) = harness(&upstream, "FailClose", |destination, body| {
        let mut decision = ProcessingResponse { dynamic_metadata: None, ..pick(destination) };
        if let Some(Response::RequestHeaders(reply)) = &mut decision.response {
            let mutation = reply.response.as_mut().unwrap().header_mutation.as_mut().unwrap();
            let header = mutation.set_headers[0].header.as_mut().unwrap();
            header.value = String::from_utf8(std::mem::take(&mut header.raw_value).to_vec()).unwrap();
        }
        [Ok(decision)].into_iter().chain(sent_back(body)).collect()
    })
    .await;
    passes(&running, &upstream).await;
}

/// A picker without interest in the response ends the stream after its decision.
#[tokio::test]
async fn accepts_a_stream_that_ends_with_the_decision() {
    let upstream = Upstream::bind().await;
    let (running, _picker) = harness(&upstream, "FailClose", |destination, body| {
        [Ok(pick(destination))].into_iter().chain(sent_back(body)).chain([end()]).collect()
    })
    .await;
    passes(&running, &upstream).await;
    // Without the body, which stays unchanged.
    let (running, _picker) =
        harness(&upstream, "FailClose", |destination, _| vec![Ok(pick(destination)), end()]).await;
    passes(&running, &upstream).await;
}

#[tokio::test]
async fn a_stream_that_ends_without_a_decision_is_a_fault() {
    let upstream = Upstream::bind().await;
    let (running, _picker) = harness(&upstream, "FailOpen", |_, _| vec![end()]).await;
    passes(&running, &upstream).await;
    let (running, _picker) = harness(&upstream, "FailClose", |_, _| vec![end()]).await;
    let response = exchange(running.address(), post(&body())).await;
    assert_eq!((response.status, response.code().as_str()), (503, "picker_unavailable"));
}

#[tokio::test]
async fn a_request_without_body_is_decided_on_its_headers() {
    struct OnHeaders(String);
    impl Phases for OnHeaders {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn request_headers(&self, headers: &HttpHeaders) -> Vec<Reply> {
            assert!(headers.end_of_stream, "end_of_stream must be set");
            vec![Ok(pick(&self.0))]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(OnHeaders(upstream.address().to_string())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .route("r", "{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}")
        .start()
        .await;
    let (response, request) = tokio::join!(get(running.address(), "/version"), upstream.answer_one("1"));
    assert_eq!((response.text(), request.line.as_str()), ("1", "GET /version HTTP/1.1"));
}
