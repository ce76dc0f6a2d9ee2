//! Quotas whose counters gateways share in a store.

#![allow(clippy::print_stdout, reason = "a test that is skipped must say so, and a figure is printed")]

mod failures;
pub(crate) mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use forebay_gateway::Config;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::server::Server;
use crate::support::client::{connect, exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::until;
use crate::support::upstream::Upstream;

const REQUEST: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

/// An endpoint that answers requests as soon as its gate is open.
struct Engine {
    port: u16,
    gate: Arc<Gate>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Gate {
    is_open: AtomicBool,
    opened: Notify,
    /// Requests that have arrived.
    arrived: AtomicUsize,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Engine {
    async fn start(is_open: bool) -> Self {
        let upstream = Upstream::bind().await;
        let (port, gate) = (upstream.port(), Arc::new(Gate::default()));
        gate.is_open.store(is_open, Ordering::SeqCst);
        let of_connections = gate.clone();
        let serving = tokio::spawn(async move {
            while let Ok(mut connection) = upstream.accept_any().await {
                let gate = of_connections.clone();
                tokio::spawn(async move {
                    while connection.next_request().await.is_some() {
                        gate.arrived.fetch_add(1, Ordering::SeqCst);
                        let opened = gate.opened.notified();
                        if !gate.is_open.load(Ordering::SeqCst) {
                            opened.await;
                        }
                        connection.respond(200, "{}").await;
                    }
                });
            }
        });
        Self { port, gate, serving }
    }

    fn open(&self) {
        self.gate.is_open.store(true, Ordering::SeqCst);
        self.gate.opened.notify_waiters();
    }

    fn arrived(&self) -> usize {
        self.gate.arrived.load(Ordering::SeqCst)
    }

    /// The manifests of a gateway in front of it, with a quota of these limits and fields.
    fn behind(&self, limits: &str, fields: &str) -> Harness {
        Harness::new().pool("qwen", QWEN, &[self.port], None).with(&format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {{name: q, namespace: agentgateway-system}}\n\
             spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}}]\n  \
             limits: [{limits}]\n{fields}"
        ))
    }

    /// Gateways that share a store.
    async fn gateways(&self, store: &Server, count: usize, limits: &str, fields: &str) -> Vec<Running> {
        let start = |_| self.behind(limits, fields).start_with(|config| use_store(config, store));
        join_all((0..count).map(start)).await
    }
}

fn use_store(config: &mut Config, store: &Server) {
    config.quota_store = Some(store.url());
}

async fn ask(address: SocketAddr) -> u16 {
    exchange(address, post(REQUEST)).await.status
}

/// The number of requests that are admitted, of `count` at one time, spread over the gateways.
async fn admitted(gateways: &[Running], count: usize) -> usize {
    let asked = (0..count).map(|at| ask(gateways[at % gateways.len()].address()));
    let statuses = join_all(asked).await;
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

/// What is left of the first limit, as a caller asks.
async fn remaining(address: SocketAddr) -> u64 {
    let request = "GET /forebay/v1/limits HTTP/1.1\r\nhost: models.example\r\n\r\n";
    exchange(address, request).await.json()["data"][0]["remaining"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_together_admit_what_one_admits() {
    let Some(store) = Server::start().await else { return };
    for (at, count) in [1, 2, 4].into_iter().enumerate() {
        let engine = Engine::start(true).await;
        // Each with a limit of its own kind: a changed amount would keep what was counted.
        let limit =
            ["{requests: 32, window: Day}", "{requests: 32, window: Hour}", "{requests: 32, window: Month}"];
        let gateways = engine.gateways(&store, count, limit[at], "").await;
        assert_eq!(admitted(&gateways, 64).await, 32, "{count} gateways");
        for gateway in &gateways {
            assert_eq!((remaining(gateway.address()).await, ask(gateway.address()).await), (0, 429));
        }
    }
}

/// A limit that is far: gateways are granted amounts in advance, and what they do not use comes back.
#[tokio::test(flavor = "multi_thread")]
async fn amounts_that_are_granted_in_advance_are_not_lost() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let gateways = engine.gateways(&store, 3, "{requests: 1000, window: Month}", "").await;
    let total = AtomicUsize::new(0);
    for _ in 0..5 {
        total.fetch_add(admitted(&gateways, 100).await, Ordering::SeqCst);
    }
    let calls: f64 = join_all(gateways.iter().map(|it| it.metric("forebay_gateway_quota_store_calls_total")))
        .await
        .iter()
        .sum();
    println!("calls of the store for 500 requests: {calls}");
    assert!(calls < 250.0, "{calls} calls for 500 requests");
    // Until every gateway has given back what others need.
    until("all of the limit to be used", || async {
        total.fetch_add(admitted(&gateways, 50).await, Ordering::SeqCst);
        (total.load(Ordering::SeqCst) >= 1000).then_some(())
    })
    .await;
    assert_eq!(admitted(&gateways, 30).await, 0);
    assert_eq!(total.load(Ordering::SeqCst), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_gateway_gives_back_what_was_granted_in_advance() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let gateway = engine.behind("{requests: 1000, window: Month}", "").start_with(|config| {
        use_store(config, &store);
        config.quota_lease = std::time::Duration::from_secs(1);
    });
    let gateway = gateway.await;
    assert_eq!(ask(gateway.address()).await, 200);
    until("what was granted", || async {
        let shares = store.shares().await;
        (shares.len() == 1 && shares[0].starts_with("1 1 ")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_survives_a_restart() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let limit = "{requests: 3, window: Month}";
    let first = engine.gateways(&store, 1, limit, "").await.remove(0);
    assert_eq!((ask(first.address()).await, ask(first.address()).await), (200, 200));
    first.gateway.shutdown().await;
    let second = engine.gateways(&store, 1, limit, "").await;
    assert_eq!(remaining(second[0].address()).await, 1);
    assert_eq!(admitted(&second, 3).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_those_of_all_gateways() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(false).await;
    let gateways = engine.gateways(&store, 2, "{concurrentRequests: 2}", "").await;
    let mut clients = Vec::new();
    for gateway in &gateways {
        let mut client = connect(gateway.address()).await;
        client.write(post(REQUEST)).await;
        clients.push(client);
        until("the request", || async { (engine.arrived() == clients.len()).then_some(()) }).await;
    }
    assert_eq!(admitted(&gateways, 4).await, 0);
    engine.open();
    for client in &mut clients {
        assert_eq!(read_response(client).await.status, 200);
    }
    for gateway in &gateways {
        until("room", || async { (ask(gateway.address()).await == 200).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_store_expire_and_contain_no_names_of_callers() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let per = r#"  per: 'request.headers["x-user"]'"#;
    let gateways =
        engine.gateways(&store, 1, "{requests: 5, window: Day}, {concurrentRequests: 5}", per).await;
    let request = post(REQUEST).replacen("\r\n", "\r\nx-user: alice@example.com\r\n", 1);
    assert_eq!(exchange(gateways[0].address(), request).await.status, 200);
    let mut keys = store.keys().await;
    keys.retain(|key| key.contains(":day:"));
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(
        keys[0].starts_with("forebay:quota:{agentgateway-system/q/") && !keys[0].contains("alice"),
        "{keys:?}"
    );
    let mut connection = store.connect().await;
    let ttl: i64 = redis::cmd("TTL").arg(&keys[0]).query_async(&mut connection).await.unwrap();
    assert!((1..=24 * 3600 + 600).contains(&ttl), "{ttl}");
}
