//! Spans that a collector receives.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use crate::support::client::{exchange, get};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::upstream::Upstream;
use crate::support::{until, within};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

struct Collector {
    address: SocketAddr,
    spans: mpsc::Receiver<Span>,
    _server: AbortOnDropHandle<()>,
}

struct Service(mpsc::Sender<Span>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            self.0.send(span).await.unwrap();
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, spans) = mpsc::channel(64);
        let serving = async move {
            let server =
                tonic::transport::Server::builder().add_service(TraceServiceServer::new(Service(sender)));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        };
        Self { address, spans, _server: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn request(traceparent: &str, model: &str) -> String {
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"a secret"}}]}}"#);
    format!(
        "POST /v1/chat/completions?key=secret HTTP/1.1\r\nhost: models.example\r\ncontent-type: application/json\r\n\
         traceparent: {traceparent}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A gateway that exports traces, and its pod.
async fn traced_gateway(collector: &Collector) -> (Running, Upstream) {
    let upstream = Upstream::bind().await;
    let endpoint = format!("http://{}", collector.address);
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .with_trusted_listener()
        .start_with(|config| config.otlp_endpoint = Some(endpoint))
        .await;
    (running, upstream)
}

#[tokio::test]
async fn exports_a_span_in_the_trace_of_the_client() {
    let mut collector = Collector::start().await;
    let (running, upstream) = traced_gateway(&collector).await;
    let answer = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20}}"#;
    let pod = async {
        let mut pod = upstream.accept().await;
        let head = pod.read_request().await;
        pod.write(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        ))
        .await;
        head
    };
    let trusted = running.trusted_address();
    let (response, forwarded) = tokio::join!(exchange(trusted, request(PARENT, QWEN)), pod);
    assert_eq!(response.text(), answer);
    let missing = exchange(trusted, request(PARENT, "nonexistent")).await;
    assert_eq!(missing.status, 404);
    // The client's sampling decision excludes this request.
    exchange(trusted, request(UNSAMPLED, "nonexistent")).await;
    // The remaining spans are exported at shutdown.
    within("the gateway to end", running.gateway.shutdown()).await;

    let span = within("a span", collector.spans.recv()).await.unwrap();
    assert_eq!(span.name, "chat");
    assert_eq!(span.kind, SpanKind::Server as i32);
    assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
    let expected = [
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", QWEN),
        ("forebay.pool", "llm-d/qwen"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("gen_ai.usage.input_tokens", "10"),
        ("gen_ai.usage.output_tokens", "20"),
    ];
    for (key, value) in expected {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    assert!(attribute(&span, "gen_ai.server.time_to_first_token").is_some());
    assert!(!format!("{span:?}").contains("secret"));
    // The pod gets this span as parent, not the client's.
    let traceparent = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
    assert_eq!(forwarded.header("traceparent"), Some(traceparent.as_str()));

    let span = within("the second span", collector.spans.recv()).await.unwrap();
    assert_eq!(attribute(&span, "error.type").as_deref(), Some("model_not_found"));
    assert_eq!(attribute(&span, "http.response.status_code").as_deref(), Some("404"));
    assert!(collector.spans.try_recv().is_err(), "the third request must not be traced");
}

/// Untrusted clients cannot force or prevent tracing. Their trace ID is kept.
#[tokio::test]
async fn untrusted_clients_do_not_decide_what_is_traced() {
    for (ratio, traceparent, expected) in [(1.0, UNSAMPLED, 1), (0.0, PARENT, 0)] {
        let mut collector = Collector::start().await;
        let endpoint = format!("http://{}", collector.address);
        let configure = |config: &mut forebay_gateway::Config| {
            config.otlp_endpoint = Some(endpoint);
            config.trace_ratio = ratio;
        };
        let running = Harness::new().pool("qwen", QWEN, &[1], None).start_with(configure).await;
        exchange(running.address(), request(traceparent, "nonexistent")).await;
        within("the gateway to end", running.gateway.shutdown()).await;
        let mut traces = Vec::new();
        while let Ok(span) = collector.spans.try_recv() {
            traces.push(hex(&span.trace_id));
        }
        assert_eq!(traces, vec!["4bf92f3577b34da6a3ce929d0e0e4736"; expected], "{ratio} {traceparent}");
    }
}

/// The engine decides itself, if the gateway does not trace.
#[tokio::test]
async fn the_trace_context_of_untrusted_clients_is_removed_without_tracing() {
    let upstream = Upstream::bind().await;
    let running =
        Harness::new().pool("qwen", QWEN, &[upstream.port()], None).with_trusted_listener().start().await;
    for (address, expected) in [(running.address(), None), (running.trusted_address(), Some(PARENT))] {
        let (_, forwarded) =
            tokio::join!(exchange(address, request(PARENT, QWEN)), upstream.answer_one("ok"));
        assert_eq!(forwarded.header("traceparent"), expected);
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A gateway that has forwarded a request that is traced, and then one that is not. Another client has decided it.
async fn traced_and_untraced(collector: &Collector) -> (Running, Upstream) {
    let (running, upstream) = traced_gateway(collector).await;
    let other = UNSAMPLED.replace("4bf9", "5bf9");
    for traceparent in [PARENT, &other] {
        let request = request(traceparent, QWEN);
        let (response, _) =
            tokio::join!(exchange(running.trusted_address(), request), upstream.answer_one("ok"));
        assert_eq!(response.status, 200);
    }
    let counted =
        format!("forebay_gateway_upstream_duration_seconds_count{{model=\"{QWEN}\",pool=\"llm-d/qwen\"}}");
    running.until_metric(&counted, 2.0).await;
    (running, upstream)
}

/// Names of the metrics with a sample that has the trace as exemplar.
fn with_exemplar(metrics: &str) -> Vec<&str> {
    let exemplar = format!(" # {{trace_id=\"{TRACE}\",span_id=\"");
    let lines = metrics.lines().filter(|line| line.contains(&exemplar));
    lines.filter_map(|line| line.split_once('{').map(|(name, _)| name)).collect()
}

#[tokio::test]
async fn traced_requests_are_exemplars_for_scrapes_that_ask_for_open_metrics() {
    let collector = Collector::start().await;
    let (running, _upstream) = traced_and_untraced(&collector).await;
    let scrape = async |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: gateway\r\naccept: {accept}\r\n\r\n");
        exchange(running.gateway.admin_address(), request).await.text().to_owned()
    };
    let metrics = scrape("application/openmetrics-text;version=1.0.0,*/*;q=0.1").await;
    let mut names = with_exemplar(&metrics);
    names.sort_unstable();
    let expected = [
        "forebay_gateway_time_to_first_token_seconds_bucket",
        "forebay_gateway_upstream_duration_seconds_bucket",
        "gen_ai_client_operation_duration_seconds_bucket",
    ];
    assert_eq!(names, expected);
    assert!(!metrics.contains("5bf9"), "a request that is not sampled has no trace to look at");
    let plain = scrape("text/plain").await;
    assert!(!plain.contains("trace_id") && plain.contains(expected[0]), "{plain}");
}

#[tokio::test]
async fn prometheus_finds_the_trace_of_a_slow_bucket() {
    let collector = Collector::start().await;
    let (running, _upstream) = traced_and_untraced(&collector).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yaml");
    let text = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- {{job_name: gateway, static_configs: \
         [{{targets: [\"{}\"]}}]}}\n",
        running.gateway.admin_address()
    );
    std::fs::write(&config, text).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let started = tokio::process::Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--enable-feature=exemplar-storage")
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(_prometheus) = started else {
        eprintln!("skipped: prometheus not found (Debian package prometheus)");
        return;
    };
    until("Prometheus to listen", async || tokio::net::TcpStream::connect(address).await.ok()).await;
    for name in ["forebay_gateway_time_to_first_token", "gen_ai_client_operation_duration"] {
        let query = format!("/api/v1/query_exemplars?query={name}_seconds_bucket&start=0&end=9999999999");
        let found = until("the exemplar", async || {
            let answer = get(address, &query).await;
            (answer.status == 200).then(|| answer.json())?["data"][0]["exemplars"][0].as_object().cloned()
        })
        .await;
        assert_eq!(found["labels"]["trace_id"], TRACE, "{found:?}");
    }
}
