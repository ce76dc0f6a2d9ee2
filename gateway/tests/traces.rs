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

use crate::support::client::exchange;
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;
use crate::support::within;

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

#[tokio::test]
async fn exports_a_span_in_the_trace_of_the_client() {
    let mut collector = Collector::start().await;
    let upstream = Upstream::bind().await;
    let endpoint = format!("http://{}", collector.address);
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .with_trusted_listener()
        .start_with(|config| config.otlp_endpoint = Some(endpoint))
        .await;
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
