//! Replicas of a picker that accept connections and never reply.

use std::time::Duration;

use forebay_gateway::PickerTls;
use tokio::net::TcpListener;

use crate::support::client::{exchange, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const RETRIES: &str = r#"forebay_gateway_retries_total{reason="picker_unreachable"}"#;

/// Like a process that is stopped: the kernel accepts connections and data.
async fn hanging() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A gateway whose pool has pickers on these ports.
async fn start(upstream: &Upstream, pickers: &[u16], timeout: Duration, tls: PickerTls) -> Running {
    let mut harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], Some((pickers[0], "FailClose")));
    for port in &pickers[1..] {
        harness = harness.with(&format!(
            r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: qwen-epp-{port}, namespace: llm-d, labels: {{kubernetes.io/service-name: qwen-epp}}}}
addressType: IPv4
ports: [{{name: grpc, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"#
        ));
    }
    harness
        .start_with(|config| {
            config.picker_timeout = timeout;
            config.picker_tls.epp_tls = tls;
        })
        .await
}

#[tokio::test]
async fn asks_another_replica_within_the_timeout_and_avoids_the_one_that_hangs() {
    let upstream = Upstream::bind().await;
    for tls in [PickerTls::Off, PickerTls::Auto] {
        let (_listener, port) = hanging().await;
        let picker = Picker::start(Fixed::at(upstream.address())).await;
        let running = start(&upstream, &[port, picker.port()], Duration::from_secs(3), tls).await;
        for _ in 0..6 {
            let chat = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{CHAT}",
                CHAT.len()
            );
            let pod = async {
                let mut pod = upstream.accept().await;
                pod.read_request().await;
                pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            };
            let response = tokio::select! {
                response = exchange(running.address(), chat) => response,
                () = async { pod.await; std::future::pending().await } => unreachable!(),
            };
            assert_eq!((response.status, response.text()), (200, "ok"), "{tls:?}");
        }
        assert_eq!(running.metric(RETRIES).await, 1.0, "{tls:?}");
    }
}

/// Each replica alone could take longer than a test may.
#[tokio::test]
async fn the_timeout_is_for_all_replicas_together() {
    let upstream = Upstream::bind().await;
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners.push(hanging().await);
    }
    let ports: Vec<u16> = listeners.iter().map(|(_, port)| *port).collect();
    let running = start(&upstream, &ports, Duration::from_secs(1), PickerTls::Off).await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "picker_unavailable"));
    // All are avoided now. They are asked again, because there is no other one.
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!(response.status, 503);
}
