//! Explanations of requests, for trusted clients that ask for them.

use forebay_grpc::names::{EXPLAIN, METADATA_FOREBAY};
use serde_json::{Value, json};

use crate::support::client::{Response, exchange, post_with};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::picker::{Fixed, Picker};
use crate::support::prompts::echo_ports;
use crate::support::proxy::ForebayPicker;
use crate::support::upstream::Upstream;

const ASK: &str = "x-forebay-explain: 1\r\n";

fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

fn explanation(response: &Response) -> Value {
    let text = response.head.header("x-forebay-explanation").expect("an explanation");
    serde_json::from_str(text).unwrap()
}

/// Removes the measured times, which must exist, from an explanation.
fn take_times(explanation: &mut Value) {
    for step in ["extract", "pick", "upstream"] {
        let time = explanation.as_object_mut().unwrap().remove(&format!("{step}Microseconds")).unwrap();
        assert!(time.is_u64(), "{step}: {time}");
    }
}

#[tokio::test]
async fn a_trusted_client_gets_an_explanation() {
    let pod = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[pod.port()], None)
        .policy(&[("adapter", QWEN)])
        .with_trusted_listener()
        .start()
        .await;
    let request = post_with(ASK, &chat("adapter"));
    let (response, request) =
        tokio::join!(exchange(running.trusted_address(), request), pod.answer_one("ok"));
    assert_eq!((response.text(), request.header("x-forebay-explain")), ("ok", None));
    let mut explanation = explanation(&response);
    take_times(&mut explanation);
    let decision = explanation["decision"].take();
    assert_eq!(decision["endpoints"][0]["address"], json!(pod.address()));
    assert_eq!(
        explanation,
        json!({
            "decision": null,
            "noDecisionBecause": null,
            "listener": "port 8081, hostname *",
            "model": "adapter",
            "baseModel": QWEN,
            "rule": "llm-d/qwen rule 0",
            "backend": "llm-d/qwen",
            "picker": "in process",
            "endpoints": [pod.address()],
            "servedBy": pod.address(),
            "attempts": 1,
            "bodyShareAtPick": 1.0,
        })
    );
}

#[tokio::test]
async fn untrusted_clients_and_other_requests_get_no_explanation() {
    let pod = Upstream::bind().await;
    let running =
        Harness::new().pool("qwen", QWEN, &[pod.port()], None).with_trusted_listener().start().await;
    let trusted = running.trusted_address();
    let cases = [
        (running.address(), ASK),
        (trusted, ""),
        (trusted, "x-forebay-explain: 0\r\n"),
        (trusted, "x_forebay_explain: 1\r\n"),
    ];
    for (address, header) in cases {
        let request = post_with(header, &chat(QWEN));
        let (response, request) = tokio::join!(exchange(address, request), pod.answer_one("ok"));
        assert_eq!(response.head.header("x-forebay-explanation"), None, "{header:?}");
        for name in ["x-forebay-explain", "x_forebay_explain"] {
            assert_eq!(request.header(name), None, "{header:?}");
        }
    }
}

#[tokio::test]
async fn explains_the_picker_and_failed_attempts() {
    let (gone, pod) = (Upstream::bind().await, Upstream::bind().await);
    let endpoints = [gone.address(), pod.address()];
    let picker = Picker::start(Fixed(format!("{},{}", endpoints[0], endpoints[1]))).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &endpoints.map(|it| it.port()), Some((picker.port(), "FailClose")))
        .with_trusted_listener()
        .start()
        .await;
    drop(gone);
    let request = post_with(ASK, &chat(QWEN));
    let (response, _) = tokio::join!(exchange(running.trusted_address(), request), pod.answer_one("ok"));
    let explanation = explanation(&response);
    assert_eq!(explanation["picker"], format!("127.0.0.1:{}", picker.port()));
    assert_eq!(explanation["endpoints"], json!(endpoints));
    assert_eq!((&explanation["servedBy"], &explanation["attempts"]), (&json!(endpoints[1]), &json!(2)));
}

#[tokio::test]
async fn explains_failed_requests() {
    let pod = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[pod.port()], None)
        .policy(&[(QWEN, QWEN)])
        .with_trusted_listener()
        .start()
        .await;
    let response = exchange(running.trusted_address(), post_with(ASK, &chat(TINY))).await;
    assert_eq!(response.status, 404);
    let explanation = explanation(&response);
    assert_eq!(
        (&explanation["model"], &explanation["baseModel"], &explanation["rule"], &explanation["attempts"]),
        (&json!(TINY), &Value::Null, &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn explains_the_scores_of_a_picker_in_process() {
    let (ports, _pods) = echo_ports(3).await;
    let running = Harness::new().pool("qwen", QWEN, &ports, None).with_trusted_listener().start().await;
    let hint = format!("{ASK}x-gateway-destination-endpoint-subset: 127.0.0.1:{}\r\n", ports[1]);
    let response = exchange(running.trusted_address(), post_with(&hint, &chat(QWEN))).await;
    let decision = &explanation(&response)["decision"];
    let endpoints = decision["endpoints"].as_array().unwrap();
    assert_eq!(endpoints[0]["address"], format!("127.0.0.1:{}", ports[1]));
    assert_eq!(decision["scorers"][0]["name"], "added-waiting-scorer");
    assert!(endpoints[0]["scores"][0].is_number() && endpoints[0]["total"].is_number(), "{decision:#}");
    for other in &endpoints[1..] {
        assert_eq!(other["excludedBy"], "subset hint of the gateway");
    }
    let nowhere = format!("{ASK}x-gateway-destination-endpoint-subset: 10.9.9.9\r\n");
    let response = exchange(running.trusted_address(), post_with(&nowhere, &chat(QWEN))).await;
    assert_eq!(response.status, 503);
    let explanation = explanation(&response);
    assert_eq!(explanation["decision"]["endpoints"].as_array().map(Vec::len), Some(3), "{explanation:#}");
}

#[tokio::test]
async fn asks_forebays_picker_for_its_scores() {
    let (ports, _pods) = echo_ports(2).await;
    let picker = ForebayPicker::start(&Harness::new().pool("qwen", QWEN, &ports, None).manifests).await;
    let proxy = picker.proxy().await;
    let harness = Harness::new().pool("qwen", QWEN, &ports, Some((proxy.port(), "FailClose")));
    let running = harness.with_trusted_listener().start().await;
    // The first requests of a connection send their bodies, the next ones their prompts.
    for _ in 0..6 {
        let response = exchange(running.trusted_address(), post_with(ASK, &chat(QWEN))).await;
        let explanation = explanation(&response);
        assert_eq!(explanation["picker"], format!("127.0.0.1:{}", proxy.port()));
        assert_eq!(explanation["decision"]["endpoints"][0]["address"], explanation["endpoints"][0]);
        assert_eq!(explanation["bodyShareAtPick"], 1.0);
    }
    proxy.take();
    let response = exchange(running.trusted_address(), post_with("", &chat(QWEN))).await;
    assert_eq!(response.status, 200);
    for message in proxy.take() {
        let hints = message.metadata_context.and_then(|mut it| it.filter_metadata.remove(METADATA_FOREBAY));
        assert!(
            !hints.is_some_and(|hints| hints.fields.contains_key(EXPLAIN)),
            "without the request for an explanation"
        );
    }
}

#[tokio::test]
async fn another_picker_does_not_tell_its_scores() {
    let pod = Upstream::bind().await;
    let picker = Picker::start(Fixed::at(pod.address())).await;
    let service = Some((picker.port(), "FailClose"));
    let running =
        Harness::new().pool("qwen", QWEN, &[pod.port()], service).with_trusted_listener().start().await;
    let request = post_with(ASK, &chat(QWEN));
    let (response, _) = tokio::join!(exchange(running.trusted_address(), request), pod.answer_one("ok"));
    let explanation = explanation(&response);
    assert_eq!(
        (&explanation["decision"], &explanation["noDecisionBecause"]),
        (&Value::Null, &json!("not told by the picker"))
    );
}
