//! Exports a span for each request to an OpenTelemetry collector. Attributes follow the semantic conventions for HTTP
//! servers and generative AI. They never contain a prompt, a body, or a query.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use forebay_openai::Usage;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use super::exemplars::TraceLabels;
use super::gen_ai::Operation;
use super::labels::ModelLabels;

/// Header of W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Maximum time to export one batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates and exports spans. When the export queue is full, the newest spans are dropped.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    ratio: f64,
}

/// What a span records at the end of its request.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) status: StatusCode,
    pub(crate) error: Option<&'static str>,
    pub(crate) labels: &'a ModelLabels,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) ttft: Option<Duration>,
    pub(crate) usage: Option<Usage>,
}

/// The span of a request in flight.
#[derive(Debug)]
pub(crate) struct Span(opentelemetry_sdk::trace::Span);

impl Traces {
    /// `ratio`: share of requests that are traced, unless a client of a trusted listener has decided. Must be called in a
    /// tokio runtime, which drives the connection to the collector.
    pub(crate) fn new(endpoint: &str, ratio: f64) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_resource(Resource::builder().with_service_name("forebay-gateway").build())
            .build();
        let tracer = provider.tracer("forebay-gateway");
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new(), ratio })
    }

    /// Starts a span, as a child of the client's span if there is one. Only clients of trusted listeners decide whether
    /// their requests are traced.
    pub(crate) fn begin(&self, head: &request::Parts, is_trusted: bool) -> Span {
        let mut parent = self.propagator.extract_with_context(&Context::new(), &Headers(&head.headers));
        if !is_trusted && parent.has_active_span() {
            parent = self.decide_sampling(&parent);
        }
        let builder =
            self.tracer.span_builder(Operation::of(head.uri.path()).name()).with_kind(SpanKind::Server);
        let mut span = builder.start_with_context(&self.tracer, &parent);
        if span.is_recording() {
            span.set_attribute(KeyValue::new("http.request.method", head.method.as_str().to_owned()));
            span.set_attribute(KeyValue::new("url.path", head.uri.path().to_owned()));
            span.set_attribute(KeyValue::new("gen_ai.operation.name", Operation::of(head.uri.path()).name()));
        }
        Span(span)
    }

    /// The client's context with a decision of our own. Not by the trace ID, which the client has chosen as well.
    fn decide_sampling(&self, parent: &Context) -> Context {
        let span = parent.span();
        let client = span.span_context();
        let flags = client.trace_flags().with_sampled(fastrand::f64() < self.ratio);
        Context::new().with_remote_span_context(SpanContext::new(
            client.trace_id(),
            client.span_id(),
            flags,
            true,
            client.trace_state().clone(),
        ))
    }

    /// Exports the remaining spans. Blocks for up to [`EXPORT_TIMEOUT`].
    pub(crate) fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "cannot export the remaining spans; they are lost");
        }
    }
}

impl Span {
    /// For exemplars of metrics. `None` if the request is not traced.
    pub(crate) fn labels(&self) -> Option<TraceLabels> {
        TraceLabels::of(self.0.span_context())
    }

    /// Sets `traceparent`, so that spans of the engine become children of this span.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap) {
        let context = self.0.span_context();
        let value =
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(TRACEPARENT, value);
        }
    }

    pub(crate) fn end(mut self, ended: &Ended<'_>) {
        let span = &mut self.0;
        if !span.is_recording() {
            return;
        }
        let ModelLabels { model, pool } = ended.labels;
        span.set_attribute(KeyValue::new("gen_ai.request.model", model.to_string()));
        span.set_attribute(KeyValue::new("forebay.pool", pool.to_string()));
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(ended.status.as_u16())));
        if let Some(endpoint) = ended.endpoint {
            span.set_attribute(KeyValue::new("server.address", endpoint.ip().to_string()));
            span.set_attribute(KeyValue::new("server.port", i64::from(endpoint.port())));
        }
        if let Some(ttft) = ended.ttft {
            span.set_attribute(KeyValue::new("gen_ai.server.time_to_first_token", ttft.as_secs_f64()));
        }
        if let Some(usage) = ended.usage {
            for (name, tokens) in [
                ("gen_ai.usage.input_tokens", usage.prompt_tokens),
                ("gen_ai.usage.output_tokens", usage.completion_tokens),
                ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
            ] {
                if let Some(tokens) = tokens {
                    span.set_attribute(KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX)));
                }
            }
        }
        if let Some(error) = ended.error {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::Error { description: Cow::Borrowed(error) });
        }
        span.end();
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
