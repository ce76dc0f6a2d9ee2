//! Requests that are restricted to a subset of a pool's endpoints.

use forebay_grpc::proto::{Kind, processing_request::Request};

use crate::support::client::{exchange, post_with};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const HEADER: &str = "x-gateway-destination-endpoint-subset";

async fn harness(pods: [&Upstream; 2], picker: Option<(u16, &str)>) -> Running {
    let ports = pods.map(Upstream::port);
    Harness::new().pool("qwen", QWEN, &ports, picker).with_trusted_listener().start().await
}

fn only(subset: &str) -> String {
    post_with(&format!("{HEADER}: {subset}\r\n"), CHAT)
}

/// Sends several requests, all of which `pod` must get without the header.
async fn all_go_to(running: &Running, pod: &Upstream, subset: &str) {
    for _ in 0..6 {
        let (response, request) =
            tokio::join!(exchange(running.trusted_address(), only(subset)), pod.answer_one("ok"));
        assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
    }
}

/// Requests that no endpoint of the pool may serve.
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
    let running = harness([&a, &b], None).await;
    all_go_to(&running, &a, &a.address().to_string()).await;
    all_go_to(&running, &b, &format!("{}, 10.0.0.1:8000,{}", stranger.address(), b.address())).await;
    none_may_answer(&running, &stranger).await;
    // Untrusted listeners ignore the header.
    let request = only("10.0.0.1:8000");
    let any = async {
        tokio::select! { it = a.answer_one("ok") => it, it = b.answer_one("ok") => it }
    };
    let (response, request) = tokio::join!(exchange(running.address(), request), any);
    assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
}

#[tokio::test]
async fn sends_the_subset_in_every_message_and_enforces_it() {
    let (a, b, stranger) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    // The picker ignores the subset.
    let mut picker = Picker::start(Fixed(format!("{},{}", a.address(), b.address()))).await;
    let running = harness([&a, &b], Some((picker.port(), "FailClose"))).await;
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

    // All chosen endpoints are outside of the subset.
    let picker = Picker::start(Fixed::at(a.address())).await;
    let running = harness([&a, &b], Some((picker.port(), "FailOpen"))).await;
    let response = exchange(running.trusted_address(), only(&b.address().to_string())).await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
}

#[tokio::test]
async fn failing_open_respects_the_subset() {
    let (a, b, stranger) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    let gone = Upstream::bind().await.port();
    let running = harness([&a, &b], Some((gone, "FailOpen"))).await;
    all_go_to(&running, &b, &b.address().to_string()).await;
    none_may_answer(&running, &stranger).await;
    let failed_open = r#"forebay_gateway_picks_total{pool="llm-d/qwen",result="failed_open"}"#;
    running.until_metric(failed_open, 6.0).await;
}

/// The route may set the header for all of its clients.
#[tokio::test]
async fn a_filter_of_the_route_may_set_the_subset() {
    let (a, b) = (Upstream::bind().await, Upstream::bind().await);
    let rule = format!(
        "{{matches: [{{path: {{type: Exact, value: /v1/chat/completions}}, headers: [{{name: X-Gateway-Model-Name, value: {QWEN}}}]}}], \
        filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {HEADER}, value: '{}'}}]}}}}], \
        backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}}]}}",
        b.address()
    );
    let running =
        Harness::new().pool("qwen", QWEN, &[a.port(), b.port()], None).route("r", &rule).start().await;
    for _ in 0..4 {
        // The client's header is ignored.
        let request = only(&a.address().to_string());
        let (response, request) = tokio::join!(exchange(running.address(), request), b.answer_one("ok"));
        assert_eq!((response.text(), request.header(HEADER)), ("ok", None));
    }
}
