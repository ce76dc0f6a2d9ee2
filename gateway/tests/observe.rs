//! Metrics and the configuration page.

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
const OF_QWEN: &str = r#"model="Qwen/Qwen3-0.6B",pool="llm-d/qwen""#;

async fn streamed(running: &Running, upstream: &Upstream, events: &[&str]) {
    let (mut client, mut pod) = running.forwarded(CHAT, upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for event in events {
        pod.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
        client.read_until(event).await;
    }
    pod.write("0\r\n\r\n").await;
    client.read_until("0\r\n\r\n").await;
}

#[tokio::test]
async fn counts_tokens_and_measures_latencies() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let events = [
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    ];
    streamed(&running, &upstream, &events).await;
    let one = post(CHAT);
    let answer = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":6},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
    let pod = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        ))
        .await;
    };
    let (response, ()) = tokio::join!(exchange(running.address(), one), pod);
    assert_eq!(response.text(), answer);
    let tokens = |kind: &str| format!(r#"forebay_gateway_tokens_total{{{OF_QWEN},type="{kind}"}}"#);
    running.until_metric(&tokens("prompt"), 17.0).await;
    running.until_metric(&tokens("completion"), 22.0).await;
    let details = |kind: &str| format!("forebay_gateway_{kind}_tokens_total{{{OF_QWEN}}}");
    running.until_metric(&details("cached"), 6.0).await;
    running.until_metric(&details("reasoning"), 5.0).await;
    running
        .until_metric(&format!("forebay_gateway_inter_token_latency_seconds_count{{{OF_QWEN}}}"), 2.0)
        .await;
    running
        .until_metric(&format!("forebay_gateway_time_to_first_token_seconds_count{{{OF_QWEN}}}"), 2.0)
        .await;
    let of_chat = format!(r#"gen_ai_operation_name="chat",gen_ai_request_model="{QWEN}""#);
    for (kind, sum) in [("input", 17.0), ("output", 22.0)] {
        let labels = format!(r#"{{{of_chat},gen_ai_token_type="{kind}"}}"#);
        running.until_metric(&format!("gen_ai_client_token_usage_sum{labels}"), sum).await;
        running.until_metric(&format!("gen_ai_client_token_usage_count{labels}"), 2.0).await;
    }
    let succeeded = format!(r#"{{{of_chat},error_type=""}}"#);
    running.until_metric(&format!("gen_ai_client_operation_duration_seconds_count{succeeded}"), 2.0).await;
}

#[tokio::test]
async fn counts_an_error_inside_a_stream_with_status_200() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let error =
        "data: {\"error\":{\"message\":\"engine died\",\"type\":\"InternalServerError\",\"code\":500}}\n\n";
    streamed(&running, &upstream, &[error, "data: [DONE]\n\n"]).await;
    running.until_metric(&format!("forebay_gateway_stream_errors_total{{{OF_QWEN}}}"), 1.0).await;
    let error_type = format!(
        r#"{{gen_ai_operation_name="chat",gen_ai_request_model="{QWEN}",error_type="stream_error"}}"#
    );
    running.until_metric(&format!("gen_ai_client_operation_duration_seconds_count{error_type}"), 1.0).await;
}

#[tokio::test]
async fn counts_aborted_responses() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    drop(pod);
    client.read_to_end().await;
    running.until_metric(r#"forebay_gateway_errors_total{code="upstream_reset"}"#, 1.0).await;
}

#[tokio::test]
async fn in_process_pickers_share_one_set_of_metrics() {
    let (one, two) = (Upstream::bind().await, Upstream::bind().await);
    let running = Harness::new()
        .pool("qwen", QWEN, &[one.port()], None)
        .pool("tiny", "tiny", &[two.port()], None)
        .start()
        .await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), one.answer_one("ok"));
    assert_eq!(response.status, 200);
    running.until_metric(r#"forebay_epp_picks_total{pool="llm-d/qwen",result="ok"}"#, 1.0).await;
    running.until_metric(r#"forebay_epp_endpoints{pool="llm-d/tiny",state="local"}"#, 1.0).await;
    let text = get(running.gateway.admin_address(), "/metrics").await;
    let types = text.text().lines().filter(|line| line.starts_with("# TYPE forebay_epp_picks ")).count();
    assert_eq!((types, text.text().ends_with("# EOF\n")), (1, true));
    assert_eq!(text.text().matches("# EOF").count(), 1);
}

#[tokio::test]
async fn the_config_page_has_the_routing_table() {
    let running = Harness::new()
        .pool("qwen", QWEN, &[1, 2], None)
        .service("web", 3, "")
        .route("r", "{matches: [{path: {value: /web}, method: GET}], backendRefs: [{name: web, port: 80, weight: 7}, {name: none, port: 80}]}")
        .start()
        .await;
    let config = get(running.gateway.admin_address(), "/config").await.json();
    let routes = config["ports"][0]["listeners"][0]["routes"].as_array().unwrap();
    assert_eq!(routes[0]["match"], "path /web/*, method = GET");
    assert_eq!(routes[0]["rule"], "llm-d/r rule 0");
    assert_eq!(routes[0]["backends"][0]["weight"], 7);
    assert_eq!(routes[0]["backends"][0]["backend"]["endpoints"][0], "127.0.0.1:3");
    assert_eq!(routes[0]["backends"][1]["backend"]["error"], "the Service does not exist");
    assert_eq!(routes[1]["match"], format!("path /*, x-gateway-base-model-name = {QWEN}"));
    assert_eq!(routes[1]["backends"][0]["backend"]["pool"], "llm-d/qwen");
    assert_eq!(config["problems"].as_array().unwrap().len(), 1);
}
