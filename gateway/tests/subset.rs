//! Requests that may go to some of a pool's endpoints only.

use forebay_grpc::proto::{Kind, processing_request::Request};

use crate::support::client::{exchange, post_with};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::stage::{QWEN, Running, Stage};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const HEADER: &str = "x-gateway-destination-endpoint-subset";

async fn stage(pods: [&Upstream; 2], picker: Option<(u16, &str)>) -> Running {
    let ports = pods.map(Upstream::port);
    Stage::new().pool("qwen", QWEN, &ports, picker).with_trusted_listener().start().await
}

fn only(subset: &str) -> String {
    post_with(&format!("{HEADER}: {subset}\r\n"), CHAT)
}

/// Several requests, all of which `pod` must get; without the header.
async fn all_go_to(running: &Running, pod: &Upstream, subset: &str) {
    for _ in 0..6 {
        let (response, request) =
            tokio::join!(exchange(running.trusted_address(), only(subset)), pod.answer_one("ok"));
        assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
    }
}

/// What no endpoint of the pool may answer.
async fn none_may_answer(running: &Running, stranger: &Upstream) {
    let stranger = stranger.address().to_string();
    for subset in ["", " , ", "nonsense", "10.0.0.1", &stranger] {
        let response = exchange(running.trusted_address(), only(subset)).await;
        assert_eq!(response.status, 503, "{subset:?}");
    }
}

#[tokio::test]
async fn in_process() {
    let (a, b, stranger) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    let running = stage([&a, &b], None).await;
    all_go_to(&running, &a, &a.address().to_string()).await;
    all_go_to(&running, &b, &format!("{}, 10.0.0.1:8000,{}", stranger.address(), b.address())).await;
    none_may_answer(&running, &stranger).await;
    // Where clients are not trusted the header is nothing.
    let request = only("10.0.0.1:8000");
    let any = async {
        tokio::select! { it = a.answer_one("ok") => it, it = b.answer_one("ok") => it }
    };
    let (response, request) = tokio::join!(exchange(running.address(), request), any);
    assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
}

#[tokio::test]
async fn a_picker_is_told_in_every_message_and_held_to_it() {
    let (a, b, stranger) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    // It does not care what it is told.
    let mut picker = Picker::start(Fixed(format!("{},{}", a.address(), b.address()))).await;
    let running = stage([&a, &b], Some((picker.port(), "FailClose"))).await;
    let subset = format!("{} ,{}", b.address(), stranger.address());
    all_go_to(&running, &b, &subset).await;
    let mut of_request = 0;
    loop {
        let Seen::Message(message) = picker.seen().await else { break };
        match message.request.unwrap() {
            Request::RequestHeaders(headers) => {
                let headers = headers.headers.unwrap().headers;
                assert!(headers.iter().all(|header| header.key != HEADER));
            }
            Request::RequestBody(_) => {}
            _ => continue,
        }
        of_request += 1;
        let metadata = message.metadata_context.unwrap();
        let hint = &metadata.filter_metadata["envoy.lb.subset_hint"].fields[HEADER];
        let Some(Kind::ListValue(list)) = &hint.kind else { panic!("not a list: {hint:?}") };
        let listed: Vec<_> = list.values.iter().map(|value| value.kind.clone().unwrap()).collect();
        let expected = [b.address(), stranger.address()].map(|it| Kind::StringValue(it.to_string()));
        assert_eq!(listed, expected);
    }
    assert!(of_request >= 2, "{of_request}");
    none_may_answer(&running, &stranger).await;

    // All that it chose is outside.
    let picker = Picker::start(Fixed::at(a.address())).await;
    let running = stage([&a, &b], Some((picker.port(), "FailOpen"))).await;
    let response = exchange(running.trusted_address(), only(&b.address().to_string())).await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
}

#[tokio::test]
async fn a_pool_that_fails_open_stays_inside() {
    let (a, b, stranger) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    let gone = Upstream::bind().await.port();
    let running = stage([&a, &b], Some((gone, "FailOpen"))).await;
    all_go_to(&running, &b, &b.address().to_string()).await;
    none_may_answer(&running, &stranger).await;
    let failed_open = r#"forebay_gateway_picks_total{pool="llm-d/qwen",result="failed_open"}"#;
    running.until_metric(failed_open, 6.0).await;
}

/// The route itself may say it to all of its clients.
#[tokio::test]
async fn a_routes_own_header() {
    let (a, b) = (Upstream::bind().await, Upstream::bind().await);
    let rule = format!(
        "{{matches: [{{path: {{type: Exact, value: /v1/chat/completions}}, headers: [{{name: X-Gateway-Model-Name, value: {QWEN}}}]}}], \
        filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {HEADER}, value: '{}'}}]}}}}], \
        backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}}]}}",
        b.address()
    );
    let running =
        Stage::new().pool("qwen", QWEN, &[a.port(), b.port()], None).route("r", &rule).start().await;
    for _ in 0..4 {
        // What the client says is not heard.
        let request = only(&a.address().to_string());
        let (response, request) = tokio::join!(exchange(running.address(), request), b.answer_one("ok"));
        assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
    }
}
