//! Pools without an endpoint picker: the prompt decides, and responses are reported.

use std::collections::VecDeque;

use forebay_epp::config::Policy;
use tokio::task::JoinSet;

use crate::support::client::{connect, exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::prompts::{chat, echo_ports, text};
use crate::support::upstream::{Connection, Upstream};

const WAITING: &str = r#"forebay_epp_open_picks{pool="llm-d/qwen",state="waiting"}"#;
const RESPONDING: &str = r#"forebay_epp_open_picks{pool="llm-d/qwen",state="responding"}"#;
const SHARES: &str = r#"forebay_epp_body_share_at_pick_bucket{le="0.25",pool="llm-d/qwen"}"#;

/// A gateway with a pool of pods that respond with their port.
async fn start(pods: usize) -> (Running, JoinSet<()>) {
    let (ports, tasks) = echo_ports(pods).await;
    (Harness::new().pool("qwen", QWEN, &ports, None).start().await, tasks)
}

/// The port of the pod that served the request.
async fn served_by(running: &Running, body: &str) -> String {
    let response = exchange(running.address(), post(body)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().to_owned()
}

#[tokio::test]
async fn a_shared_prefix_goes_to_the_pod_that_had_it() {
    let (running, _pods) = start(4).await;
    let prefixes: Vec<String> = (0..4).map(|n| text(&format!("tenant {n}"), 20_000)).collect();
    let mut first = Vec::new();
    for prefix in &prefixes {
        first.push(served_by(&running, &chat(prefix, "")).await);
    }
    for turn in 0..3 {
        for (prefix, first) in prefixes.iter().zip(&first).rev() {
            let longer = chat(&format!("{prefix}{}", text(&format!("turn {turn}"), 600)), "");
            assert_eq!(&served_by(&running, &longer).await, first, "turn {turn}");
        }
    }
    let salted = chat(&prefixes[0], r#","cache_salt":"secret""#);
    assert_ne!(served_by(&running, &salted).await, first[0], "another salt");
    running.until_metric(WAITING, 0.0).await;
    running.until_metric(RESPONDING, 0.0).await;
}

#[tokio::test]
async fn another_policy_decides_picks_in_process() {
    let (ports, _pods) = echo_ports(2).await;
    let harness = Harness::new().pool("qwen", QWEN, &ports, None);
    let running = harness.start_with(|config| config.in_process_policy = Policy::RoundRobin).await;
    let body = chat(&text("the same", 20_000), "");
    let mut served = Vec::new();
    for _ in 0..4 {
        served.push(served_by(&running, &body).await);
    }
    assert!(served.windows(2).all(|pair| pair[0] != pair[1]), "each endpoint in turn: {served:?}");
}

#[tokio::test]
async fn a_new_prompt_is_sent_before_its_end_and_known_to_its_end() {
    let pods = [Upstream::bind().await, Upstream::bind().await];
    let ports = pods.each_ref().map(Upstream::port);
    let running = Harness::new().pool("qwen", QWEN, &ports, None).start().await;
    let request = post(&chat(&text("new", 300_000), ""));
    let other_end = post(&chat(&format!("{}end", text("new", 300_000)), ""));
    let mut client = connect(running.address()).await;
    let (start, rest) = request.split_at(16 << 10);
    client.write(start).await;
    let (mut pod, first) = accept(&pods).await;
    // The head is there before the rest of the body was sent.
    let mut head = pod.read_head().await;
    assert_eq!(running.metric(SHARES).await, 1.0);
    client.write(rest).await;
    pod.read_body(&mut head).await;
    pod.respond(200, "").await;
    assert_eq!(read_response(&mut client).await.status, 200);

    // The whole prompt is known, so the next one is read to the point where it differs.
    let mut client = connect(running.address()).await;
    let writing = client.write(&other_end);
    let ((mut pod, second), ()) = tokio::join!(reaccept(&pods, pod, first), writing);
    pod.respond(200, "").await;
    assert_eq!(read_response(&mut client).await.status, 200);
    assert_eq!(second, first);
    assert_eq!(running.metric(SHARES).await, 1.0);
}

/// The next connection of any pod, and its port.
async fn accept(pods: &[Upstream; 2]) -> (Connection, u16) {
    tokio::select! {
        pod = pods[0].accept() => (pod, pods[0].port()),
        pod = pods[1].accept() => (pod, pods[1].port()),
    }
}

/// The next request: on `open`, a connection of the pod at `port`, or on a new one.
async fn reaccept(pods: &[Upstream; 2], mut open: Connection, port: u16) -> (Connection, u16) {
    tokio::select! {
        request = open.next_request() => {
            assert!(request.is_some(), "the connection was closed");
            (open, port)
        }
        (mut pod, port) = accept(pods) => {
            pod.read_request().await;
            (pod, port)
        }
    }
}

#[tokio::test]
async fn a_prompt_that_may_not_be_held_is_streamed() {
    let (running, _pods) = start(2).await;
    let large = chat(&text("large", 20 << 20), "");
    // The second one is known to its end, and would be read to it.
    for _ in 0..2 {
        served_by(&running, &large).await;
    }
    assert_eq!(running.metric(&SHARES.replace("0.25", "0.5")).await, 2.0);
}

#[tokio::test]
async fn the_first_byte_is_the_first_content_and_a_client_that_left_is_forgotten() {
    let pod = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[pod.port()], None).start().await;
    let body = chat(&text("stream", 3000), r#","stream":true"#);
    let (mut client, mut connection) = running.forwarded(&body, &pod).await;
    running.until_metric(WAITING, 1.0).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write(head).await;
    connection.write("8\r\n: ping\n\n\r\n").await;
    client.read_until(": ping").await;
    assert_eq!(running.metric(WAITING).await, 1.0, "a comment is not content");
    connection.write("a\r\ndata: {}\n\n\r\n").await;
    client.read_until("data: {}").await;
    assert_eq!((running.metric(WAITING).await, running.metric(RESPONDING).await), (0.0, 1.0));
    drop(client);
    running.until_metric(RESPONDING, 0.0).await;

    // Before the response.
    let (client, _connection) = running.forwarded(&body, &pod).await;
    running.until_metric(WAITING, 1.0).await;
    drop(client);
    running.until_metric(WAITING, 0.0).await;
    assert_eq!(running.metric(RESPONDING).await, 0.0);
}

/// Of three pods the first one fails as `fail` does. The others have some requests in flight.
async fn fails_at_most_its_share(fail: impl AsyncFn(Connection)) {
    const REQUESTS: usize = 45;
    let failing = Upstream::bind().await;
    let others = [Upstream::bind().await, Upstream::bind().await];
    let ports = [failing.port(), others[0].port(), others[1].port()];
    let running = Harness::new().pool("qwen", QWEN, &ports, None).start().await;
    let (mut failures, mut open) = (0, VecDeque::new());
    for n in 0..REQUESTS {
        let mut client = connect(running.address()).await;
        client.write(post(&chat(&text(&format!("prompt {n}"), 2000), ""))).await;
        tokio::select! {
            mut pod = failing.accept() => {
                pod.read_request().await;
                fail(pod).await;
                assert!(read_response(&mut client).await.status >= 500);
                failures += 1;
            }
            (mut pod, _) = accept(&others) => {
                pod.read_request().await;
                open.push_back((client, pod));
            }
        }
        if open.len() > 4
            && let Some((mut client, mut pod)) = open.pop_front()
        {
            pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            read_response(&mut client).await;
        }
    }
    assert!(failures <= REQUESTS / 3, "{failures} of {REQUESTS} requests went to the failing one of 3");
}

#[tokio::test]
async fn a_pod_that_responds_500_gets_no_more_than_its_share() {
    fails_at_most_its_share(async |mut pod| {
        pod.write("HTTP/1.1 500 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_closes_connections_gets_no_more_than_its_share() {
    fails_at_most_its_share(async |pod| drop(pod)).await;
}
