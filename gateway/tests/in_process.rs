//! Pools without an endpoint picker: the gateway picks by load.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::client::{connect, exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker};
use crate::support::until;
use crate::support::upstream::{Connection, Upstream};

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n";

/// A response whose head was received.
struct Stream {
    client: Connection,
    pod: Connection,
    served_by: u16,
}

impl Stream {
    /// The next connection of either pod.
    async fn open(running: &Running, pods: [&Upstream; 2]) -> Self {
        let mut client = connect(running.address()).await;
        client.write(post(CHAT)).await;
        let (mut pod, served_by) = tokio::select! {
            pod = pods[0].accept() => (pod, pods[0].port()),
            pod = pods[1].accept() => (pod, pods[1].port()),
        };
        pod.read_request().await;
        pod.write(STREAM_HEAD).await;
        client.read_until("data:").await;
        Self { client, pod, served_by }
    }

    /// Completes the response and closes the connection.
    async fn end(mut self) {
        self.pod.write("0\r\n\r\n").await;
        self.client.read_until("0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn a_pod_with_a_stream_in_flight_gets_fewer_requests() {
    let (a, b) = (Upstream::bind().await, Upstream::bind().await);
    let running = Harness::new().pool("qwen", QWEN, &[a.port(), b.port()], None).start().await;
    let pods = [&a, &b];
    let first = Stream::open(&running, pods).await;
    let (busy, free) = if first.served_by == a.port() { (&a, &b) } else { (&b, &a) };
    // While the stream is in flight, the other pod has less load.
    for _ in 0..4 {
        let second = Stream::open(&running, pods).await;
        assert_eq!(second.served_by, free.port());
        second.end().await;
    }
    // After its end, both pods are free.
    let other = Stream::open(&running, pods).await;
    assert_eq!(other.served_by, free.port());
    first.end().await;
    let next = Stream::open(&running, pods).await;
    assert_eq!(next.served_by, busy.port());

    // The load of a client that disconnects is removed.
    let Stream { client, mut pod, .. } = other;
    drop(client);
    assert_eq!(pod.read_to_end().await, b"");
    running.until_metric("forebay_gateway_active_requests", 1.0).await;
    assert_eq!(Stream::open(&running, pods).await.served_by, free.port());
}

#[tokio::test]
async fn a_request_counts_for_the_endpoint_that_served_it() {
    let (a, b) = (Upstream::bind().await, Upstream::bind().await);
    let gone = Upstream::bind().await.port();
    let running = Harness::new().pool("qwen", QWEN, &[gone, a.port(), b.port()], None).start().await;
    for _ in 0..6 {
        let first = Stream::open(&running, [&a, &b]).await;
        let second = Stream::open(&running, [&a, &b]).await;
        assert_ne!(first.served_by, second.served_by);
        first.end().await;
        second.end().await;
    }
    assert!(running.metric(r#"forebay_gateway_retries_total{reason="connect_failed"}"#).await >= 1.0);
}

/// A pod that reports in its response whether the request was picked in process.
fn serve_all(upstream: Upstream) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(mut pod) = upstream.accept_any().await {
            connections.spawn(async move {
                while let Some(request) = pod.next_request().await {
                    let asked = request.header("x-gateway-destination-endpoint").is_some();
                    pod.respond(200, if asked { "asked" } else { "in process" }).await;
                }
            });
        }
    });
    tasks
}

#[tokio::test]
async fn follows_pools_that_are_added_and_removed() {
    let pod = Upstream::bind().await;
    let with = Harness::new().pool("qwen", QWEN, &[pod.port()], None).manifests;
    let without = Harness::new();
    let manifests = without.manifests.clone();
    let running = without.start().await;
    let _pod = serve_all(pod);
    for _ in 0..3 {
        for (manifests, wanted) in [(&with, 200), (&manifests, 404)] {
            running.write(manifests);
            until("the manifests to be in force", || async {
                (exchange(running.address(), post(CHAT)).await.status == wanted).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn no_request_fails_when_a_pool_switches_its_picker() {
    const CLIENTS: usize = 4;
    let (a, b) = (Upstream::bind().await, Upstream::bind().await);
    let ports = [a.port(), b.port()];
    let picker = Picker::start(Fixed(format!("{},{}", a.address(), b.address()))).await;
    let asked = Harness::new().pool("qwen", QWEN, &ports, Some((picker.port(), "FailClose")));
    let in_process = Harness::new().pool("qwen", QWEN, &ports, None).manifests;
    let manifests = asked.manifests.clone();
    let running = asked.start().await;
    let _pods = [serve_all(a), serve_all(b)];

    let address = running.address();
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let stop = stop.clone();
        clients.spawn(async move {
            let mut client = connect(address).await;
            let mut answers = 0;
            while !stop.is_cancelled() {
                client.write(post(CHAT)).await;
                let response = read_response(&mut client).await;
                assert_eq!(response.status, 200, "{}", response.text());
                answers += 1;
            }
            answers
        });
    }
    for _ in 0..3 {
        for (manifests, wanted) in [(&in_process, "in process"), (&manifests, "asked")] {
            running.write(manifests);
            until(wanted, || async { (exchange(address, post(CHAT)).await.text() == wanted).then_some(()) })
                .await;
        }
    }
    stop.cancel();
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answers| *answers > 0), "a client had no answers: {answers:?}");
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
}
