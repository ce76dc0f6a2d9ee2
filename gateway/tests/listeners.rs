//! Listeners follow their Gateways. Shutdown lets requests in flight finish.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::client::{connect, exchange, get, post, read_response};
use crate::support::harness::{Harness, LISTENER, QWEN, gateway};
use crate::support::upstream::Upstream;
use crate::support::{until, within};

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

#[tokio::test]
async fn opens_and_closes_listeners_with_their_gateways() {
    let upstream = Upstream::bind().await;
    let harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    let one = harness.manifests.clone();
    let two =
        one.replace(&gateway(&[("http", LISTENER)]), &gateway(&[("http", LISTENER), ("more", LISTENER + 1)]));
    assert_ne!(one, two);
    // One worker, because each worker has its own connection pool.
    let mut running = harness.start_with(|config| config.workers = NonZeroUsize::new(1)).await;
    let first = running.address();
    running.rewrite(&two, |gateway| gateway.addresses().len() == 2).await;
    let second = running.gateway.addresses()[&(LISTENER + 1)];
    assert_eq!(running.address(), first, "an unchanged listener was reopened");
    let (response, _) = tokio::join!(exchange(second, post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");

    // A stream over the second listener continues after the listener is removed.
    let mut client = connect(second).await;
    client.write(post(CHAT)).await;
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    running.rewrite(&one, |gateway| gateway.addresses().len() == 1).await;
    until("the port to close", || async { TcpStream::connect(second).await.is_err().then_some(()) }).await;
    pod.respond(200, "late").await;
    assert_eq!(read_response(&mut client).await.text(), "late");
    let over_the_kept_connection = async {
        pod.read_request().await;
        pod.respond(200, "ok").await;
    };
    let (response, ()) = tokio::join!(exchange(first, post(CHAT)), over_the_kept_connection);
    assert_eq!(response.text(), "ok");
}

#[tokio::test]
async fn applies_changed_routes() {
    let (old, new) = (Upstream::bind().await, Upstream::bind().await);
    let harness = Harness::new().pool("qwen", QWEN, &[old.port()], None);
    let moved = harness.manifests.replace(&old.port().to_string(), &new.port().to_string());
    let mut running = harness.start().await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), old.answer_one("old"));
    assert_eq!(response.text(), "old");
    let changes = std::cell::Cell::new(0);
    running.rewrite(&moved, |_| changes.replace(changes.get() + 1) > 0).await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), new.answer_one("new"));
    assert_eq!(response.text(), "new");
}

#[tokio::test]
async fn a_route_whose_pool_is_missing_is_applied_after_a_delay() {
    let upstream = Upstream::bind().await;
    let harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    let its_pool = "kind: InferencePool\nmetadata: {name: qwen,";
    assert!(harness.manifests.contains(its_pool));
    let without_pool = harness.manifests.replace(its_pool, "kind: InferencePool\nmetadata: {name: another,");
    let mut running = Harness::new().start().await;
    let written = Instant::now();
    running.write(&without_pool);
    running.gateway.changed().await;
    let first = exchange(running.address(), post(CHAT)).await.status;
    // The old route stays in use, because the pool may still arrive. On a stalled machine the delay may have passed.
    assert!(first == 404 || written.elapsed() >= Duration::from_secs(1), "{first}");
    until("the route to be in force as it is", || async {
        (exchange(running.address(), post(CHAT)).await.status == 500).then_some(())
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let address = running.address();
    let mut idle = connect(address).await;
    let mut client = connect(address).await;
    client.write(post(CHAT)).await;
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    let ending = tokio::spawn(running.gateway.shutdown());
    until("the port to close", || async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
    assert_eq!(idle.read_to_end().await, b"");
    assert!(!ending.is_finished());
    pod.respond(200, "late").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.text(), response.head.header("connection")), ("late", Some("close")));
    within("the gateway to end", ending).await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_at_the_drain_timeout() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.drain_timeout = Duration::from_millis(50))
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    within("the gateway to end", running.gateway.shutdown()).await;
    assert_eq!((pod.read_to_end().await.len(), client.read_to_end().await.len()), (0, 0));
}

#[tokio::test]
async fn liveness_and_readiness_differ() {
    let taken = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[1], None)
        .start_with(|config| config.map_ports = vec![(LISTENER, taken.port())])
        .await;
    let admin = running.gateway.admin_address();
    assert_eq!(get(admin, "/healthz").await.status, 200);
    assert_eq!(get(admin, "/readyz").await.status, 503);
    assert_eq!(get(admin, "/nothing").await.status, 404);
    // The listener is opened when the port becomes free.
    drop(taken);
    until("readiness", || async { (get(admin, "/readyz").await.status == 200).then_some(()) }).await;
}
