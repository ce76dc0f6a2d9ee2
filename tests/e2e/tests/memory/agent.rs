//! Attacks on the agent by pods and by readers.

use std::{fmt::Write as _, net::SocketAddr};

use forebay_e2e::TIMEOUT;
use forebay_telemetry::v1::{WatchRequest, telemetry_client::TelemetryClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tonic::transport::Endpoint;

use crate::{POOL, start, survived};

/// A pod with this many models whose names have `name_bytes` each. Its metrics are as large.
async fn pod_with_models(address: SocketAddr, models: usize, name_bytes: usize) {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut list = String::from(r#"{"object":"list","data":["#);
    let mut metrics = String::from("# TYPE vllm:lora_requests_info gauge\n");
    for n in 0..models {
        let name = format!("{n:0name_bytes$}");
        let comma = if n == 0 { "" } else { "," };
        write!(list, r#"{comma}{{"id":"{name}","object":"model","max_model_len":4096}}"#).unwrap();
        writeln!(metrics, "vllm:num_requests_running{{model_name=\"{name}\"}} 1").unwrap();
    }
    list.push_str("]}");
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (list, metrics) = (list.clone(), metrics.clone());
        tokio::spawn(async move {
            let mut request = [0; 2048];
            loop {
                let length = stream.read(&mut request).await.unwrap_or(0);
                if length == 0 {
                    return;
                }
                let body = if request[..length].starts_with(b"GET /v1/models") { &list } else { &metrics };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                if stream.write_all(head.as_bytes()).await.is_err()
                    || stream.write_all(body.as_bytes()).await.is_err()
                {
                    return;
                }
            }
        });
    }
}

/// `forebay pods` names this many endpoints with models.
fn endpoints_with_models(harness: &forebay_e2e::harness::Harness) -> usize {
    let output = std::process::Command::new(harness.program("forebay"))
        .args(["pods", "-o", "json", "--agents", &harness.network.agent().to_string()])
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().filter(|item| item["engine"]["models"].as_array().is_some_and(|it| !it.is_empty())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_of_models_and_slow_readers_are_bounded() {
    const PODS: u8 = 40;
    let Some(mut harness) = start(0) else { return };
    let mut pods = tokio::task::JoinSet::new();
    for host in 100..100 + PODS {
        let address = harness.announce_pod(POOL, host).unwrap();
        // About 3.5 MiB. What the agent keeps of it is as much as it keeps at most.
        pods.spawn(pod_with_models(address, 3_500, 1_000));
    }
    let mut known = 0;
    let scraped = forebay_e2e::within(TIMEOUT, || {
        known = endpoints_with_models(&harness);
        known == usize::from(PODS)
    });
    assert!(scraped, "{known} of {PODS}: {}", harness.agent.log_tail());
    survived("40 pods with 3,500 models each", harness.limited_agent());

    let mut streams = Vec::new();
    for reader in 0..2_u8 {
        for _ in 0..128 {
            let endpoint = Endpoint::from_shared(format!("http://{}", harness.network.agent())).unwrap();
            let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
            let from = std::net::Ipv4Addr::new(127, 0, 0, 2 + reader);
            let channel = endpoint.local_address(Some(from.into())).connect().await.unwrap();
            let watching = TelemetryClient::new(channel).max_decoding_message_size(64 << 20);
            let mut watching = watching;
            if let Ok(Ok(stream)) = timeout(TIMEOUT, watching.watch(WatchRequest::default())).await {
                streams.push(stream.into_inner());
            }
        }
    }
    harness.limited_agent().unwrap().settle().await;
    let attack = format!("{} readers that take nothing", streams.len());
    survived(&attack, harness.limited_agent());
    survived("a node with 40 pods of 3,500 models", harness.limited_picker());
    survived("a node with 40 pods of 3,500 models", harness.limited_gateway());
}
