//! API keys that change while gateways run.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, Harness};

/// The status of a request with a key.
async fn status(address: SocketAddr, key: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /health HTTP/1.1\r\nhost: it\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The time until each gateway answers with this status.
async fn until(addresses: &[SocketAddr], key: &str, expected: u16) -> Duration {
    let start = Instant::now();
    for address in addresses {
        while status(*address, key).await != expected {
            assert!(start.elapsed() < DEADLINE, "{address} does not answer with {expected}");
        }
    }
    start.elapsed()
}

async fn set_keys(harness: &Harness, keys: &[&str]) {
    // Not `stringData`: what is missing there stays in the Secret.
    let entry = |key: &&str| {
        let entry = ByteString(json!({ "key": key }).to_string().into_bytes());
        (format!("of-{key}"), serde_json::to_value(entry).unwrap())
    };
    let data: serde_json::Map<String, Value> = keys.iter().map(entry).collect();
    harness.apply("v1", "Secret", "infra", "keys", json!({ "data": data })).await;
}

/// Issuance and revocation are in force everywhere without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_follows_the_keys() {
    let Some(harness) = Harness::start().await else { return };
    let class = json!({ "spec": { "controllerName": "forebay.dev/gateway" } });
    harness.apply("gateway.networking.k8s.io/v1", "GatewayClass", "", "forebay", class).await;
    harness.pool("qwen").await;
    harness.route("chat", "public", "qwen").await;
    harness.listen("public", 80).await;
    set_keys(&harness, &["one"]).await;
    let policy = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "traffic": { "apiKeyAuthentication": { "secretRef": { "name": "keys" } } },
    } });
    harness.apply("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "door", policy).await;
    let ips = [Ipv4Addr::new(127, 0, 45, 1), Ipv4Addr::new(127, 0, 45, 2)];
    let gateways = [harness.gateway("first", ips[0]).await, harness.gateway("second", ips[1]).await];
    let service = ("v1", "Service", "forebay", "infra-public");
    let service = harness.until(service, "the Service", |it| !it.is_null()).await;
    let port = u16::try_from(service["spec"]["ports"][0]["targetPort"].as_u64().unwrap()).unwrap();
    let addresses = ips.map(|ip| SocketAddr::from((ip, port)));
    for address in addresses {
        let is_open = async { while TcpStream::connect(address).await.is_err() {} };
        tokio::time::timeout(DEADLINE, is_open).await.expect("the listener is open");
    }
    until(&addresses, "one", 200).await;
    assert_eq!(status(addresses[1], "two").await, 401);
    for round in 0..3 {
        set_keys(&harness, &["one", "two"]).await;
        let issued = until(&addresses, "two", 200).await;
        set_keys(&harness, &["one"]).await;
        let revoked = until(&addresses, "two", 401).await;
        println!("round {round}: issued in {issued:?}, revoked in {revoked:?}");
        assert_eq!(status(addresses[0], "one").await, 200);
    }
    for gateway in gateways {
        gateway.shutdown().await;
    }
}
