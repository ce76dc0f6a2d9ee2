//! `Prefer: reserve-endpoint`: which endpoint would be picked.

use crate::support::client::{exchange, post_with};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::prompts::chat;
use crate::support::proxy::ForebayPicker;
use crate::support::upstream::Upstream;

const RESERVE: &str = "prefer: reserve-endpoint\r\n";

/// Asks for an endpoint of the pod, and asserts that the pod gets no request before one that is meant for it.
async fn assert_reserves(running: &Running, pod: &Upstream) {
    let response = exchange(running.trusted_address(), post_with(RESERVE, &chat("reserved", ""))).await;
    assert_eq!((response.status, response.text()), (204, ""));
    let address = pod.address().to_string();
    assert_eq!(response.head.header("x-llm-d-reserved-host-port"), Some(&*address));
    assert_eq!(response.head.header("preference-applied"), Some("reserve-endpoint"));
    let request = post_with("", &chat("sent", ""));
    let (response, request) =
        tokio::join!(exchange(running.trusted_address(), request), pod.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    assert!(request.text().contains("sent"), "{}", request.text());
}

#[tokio::test]
async fn reserves_in_process() {
    let pod = Upstream::bind().await;
    let running =
        Harness::new().pool("qwen", QWEN, &[pod.port()], None).with_trusted_listener().start().await;
    assert_reserves(&running, &pod).await;
}

#[tokio::test]
async fn reserves_at_forebays_picker_without_a_pick() {
    let pod = Upstream::bind().await;
    let manifests = Harness::new().pool("qwen", QWEN, &[pod.port()], None).manifests;
    let picker = ForebayPicker::start(&manifests).await;
    let proxy = picker.proxy().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[pod.port()], Some((proxy.port(), "FailClose")))
        .with_trusted_listener()
        .start()
        .await;
    for n in 1..=3 {
        assert_reserves(&running, &pod).await;
        assert_eq!(picker.metric(r#"forebay_epp_picks_total{result="ok"}"#).await, f64::from(n));
    }
}

#[tokio::test]
async fn reserves_at_another_picker_with_a_decision_that_is_aborted() {
    let pod = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(pod.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[pod.port()], Some((picker.port(), "FailClose")))
        .with_trusted_listener()
        .start()
        .await;
    assert_reserves(&running, &pod).await;
    for request in ["reserved", "sent"] {
        picker.until(request, |seen| matches!(seen, Seen::Ended | Seen::Reset)).await;
    }
}

#[tokio::test]
async fn untrusted_clients_reserve_nothing_and_no_picker_sees_the_header() {
    let pod = Upstream::bind().await;
    let running =
        Harness::new().pool("qwen", QWEN, &[pod.port()], None).with_trusted_listener().start().await;
    let request = post_with(RESERVE, &chat("hello", ""));
    let (response, request) = tokio::join!(exchange(running.address(), request), pod.answer_one("ok"));
    assert_eq!((response.text(), response.head.header("x-llm-d-reserved-host-port")), ("ok", None));
    assert_eq!(request.header("prefer"), None);
    let other = post_with("prefer: respond-async\r\n", &chat("hello", ""));
    let (_, request) = tokio::join!(exchange(running.address(), other), pod.answer_one("ok"));
    assert_eq!(request.header("prefer"), Some("respond-async"));
}

#[tokio::test]
async fn a_reservation_is_not_mirrored() {
    for backend in
        ["{name: web, port: 80}", "{group: inference.networking.k8s.io, kind: InferencePool, name: pool}"]
    {
        let (web, shadow) = (Upstream::bind().await, Upstream::bind().await);
        let rule = format!(
            "{{matches: [{{headers: [{{name: x-mirrored, value: \"yes\"}}, {{name: X-Gateway-Model-Name, value: {QWEN}}}]}}], \
             filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: shadow, port: 80}}}}}}], \
             backendRefs: [{backend}]}}"
        );
        // The rule names the model: pods are not asked for their models.
        let running = Harness::new()
            .service("web", web.port(), "")
            .pool("pool", QWEN, &[web.port()], None)
            .service("shadow", shadow.port(), "")
            .route("mirrored", &rule)
            .with_trusted_listener()
            .start()
            .await;
        let headers = "x-mirrored: yes\r\n";
        let reserved = post_with(&format!("{headers}{RESERVE}"), &chat("reserved", ""));
        assert_eq!(exchange(running.trusted_address(), reserved).await.status, 204);
        let sent = post_with(headers, &chat("sent", ""));
        let (response, _) = tokio::join!(exchange(running.trusted_address(), sent), web.answer_one("ok"));
        assert_eq!(response.text(), "ok", "{backend}");
        let mirrored = shadow.answer_one("ignored").await;
        assert!(mirrored.text().contains("sent"), "{}", mirrored.text());
    }
}
