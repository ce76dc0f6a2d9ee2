//! Usage of streams that the gateway asks for.

use forebay_gateway::StreamUsage;

use crate::support::client::{connect, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::upstream::{Connection, Upstream};

const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const ASKS: &str = r#""stream_options":{"include_usage":true}"#;

async fn started(upstream: &Upstream, when: StreamUsage) -> Running {
    let pool = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    pool.start_with(|config| config.stream_usage = when).await
}

fn body(members: &str) -> String {
    format!(r#"{{"model":"{QWEN}","messages":[],{members}}}"#)
}

/// The body that the endpoint gets.
async fn sent(running: &Running, upstream: &Upstream, request: String) -> (String, Connection, Connection) {
    let mut client = connect(running.address()).await;
    client.write(request).await;
    let mut pod = upstream.accept().await;
    let request = pod.read_request().await;
    (request.text().to_owned(), client, pod)
}

/// What the client gets of a stream that arrives in these pieces.
async fn received(client: &mut Connection, pod: &mut Connection, pieces: &[&str]) -> String {
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.read_until("\r\n\r\n").await;
    for piece in pieces {
        pod.write(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
    pod.write("0\r\n\r\n").await;
    let chunks = client.read_until("0\r\n\r\n").await;
    // Without the lines with the sizes of chunks.
    chunks.split("\r\n").skip(1).step_by(2).collect()
}

#[tokio::test]
async fn the_usage_is_asked_for_and_not_sent_to_the_client() {
    let upstream = Upstream::bind().await;
    let running = started(&upstream, StreamUsage::Always).await;
    let before = body(r#""stream":true"#);
    let (seen, mut client, mut pod) = sent(&running, &upstream, post(&before)).await;
    assert_eq!(seen, format!("{},{ASKS}}}", &before[..before.len() - 1]));
    let all = format!("{TEXT}{USAGE}");
    let pieces = [TEXT, &all[..50], &all[50..80], &all[80..], "data: [DO", "NE]\n", "\n: end"];
    assert_eq!(received(&mut client, &mut pod, &pieces).await, format!("{TEXT}{TEXT}{DONE}: end"));
    let tokens =
        |kind| format!(r#"forebay_gateway_tokens_total{{model="{QWEN}",pool="llm-d/qwen",type="{kind}"}}"#);
    running.until_metric(&tokens("prompt"), 7.0).await;
    running.until_metric(&tokens("completion"), 2.0).await;
}

#[tokio::test]
async fn an_event_that_is_not_complete_is_sent_at_the_end() {
    let upstream = Upstream::bind().await;
    let running = started(&upstream, StreamUsage::Always).await;
    let (_, mut client, mut pod) = sent(&running, &upstream, post(&body(r#""stream":true"#))).await;
    assert_eq!(received(&mut client, &mut pod, &[TEXT, "data: [DONE]"]).await, format!("{TEXT}data: [DONE]"));
}

#[tokio::test]
async fn clients_that_ask_for_usage_get_it() {
    let upstream = Upstream::bind().await;
    let running = started(&upstream, StreamUsage::Always).await;
    let before = body(&format!(r#""stream":true,{ASKS}"#));
    let (seen, mut client, mut pod) = sent(&running, &upstream, post(&before)).await;
    assert_eq!(seen, before);
    let all = format!("{TEXT}{USAGE}{DONE}");
    assert_eq!(received(&mut client, &mut pod, &[&all]).await, all);
}

#[tokio::test]
async fn requests_that_need_no_change_are_not_changed() {
    let upstream = Upstream::bind().await;
    let (streamed, plain) = (body(r#""stream":true"#), body(r#""stream":false"#));
    let other_path = post(&streamed).replace("/v1/chat/completions", "/v1/responses");
    assert_ne!(other_path, post(&streamed));
    for (when, request) in [
        (StreamUsage::Never, post(&streamed)),
        // Nothing counts tokens.
        (StreamUsage::Auto, post(&streamed)),
        (StreamUsage::Always, post(&plain)),
        (StreamUsage::Always, other_path),
    ] {
        let running = started(&upstream, when).await;
        let (seen, _client, _pod) = sent(&running, &upstream, request.clone()).await;
        assert!(request.ends_with(&seen), "{when:?}: {seen}");
    }
}
