use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_openai::{Finding, Usage};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use super::access::{AccessLog, Line};
use super::explain::Explanation;
use super::labels::ModelLabels;
use super::metrics::{Metrics, Series};
use super::traces::{Ended, Span};
use crate::hold::Hold;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Measures one request and reports it when dropped: metrics, access log and trace.
///
/// It moves from the request to the response body. If it is dropped before [`Record::complete`], the client closed the
/// request.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    method: Method,
    path: Option<PathAndQuery>,
    arrived: Instant,
    /// Waits for the client and the picker before the request was sent.
    waited: Duration,
    sent: Option<Instant>,
    series: Arc<Series>,
    status: Option<StatusCode>,
    is_complete: bool,
    body_bytes: u64,
    ttft: Option<Duration>,
    usage: Option<Usage>,
    error: Option<&'static str>,
    endpoint: Option<SocketAddr>,
    request_id: Option<HeaderValue>,
    log: Option<Arc<AccessLog>>,
    /// Boxed: tracing is off by default.
    span: Option<Box<Span>>,
    explanation: Option<Box<Explanation>>,
    /// Memory of a large head.
    head: Option<Hold>,
}

impl Record {
    /// `unknown`: label value until the model and pool are known.
    pub(crate) fn begin(
        metrics: Arc<Metrics>,
        log: Option<Arc<AccessLog>>,
        head: &request::Parts,
        unknown: &Arc<str>,
    ) -> Box<Self> {
        metrics.active_requests.inc();
        let series = metrics.unknown_series(unknown);
        let request_id = log.as_ref().and_then(|_| head.headers.get(REQUEST_ID).cloned());
        // Boxed, because it is moved often.
        Box::new(Self {
            metrics,
            method: head.method.clone(),
            path: head.uri.path_and_query().cloned(),
            arrived: Instant::now(),
            waited: Duration::ZERO,
            sent: None,
            series,
            status: None,
            is_complete: false,
            body_bytes: 0,
            ttft: None,
            usage: None,
            error: None,
            endpoint: None,
            request_id,
            log,
            span: None,
            explanation: None,
            head: None,
        })
    }

    /// Keeps the memory of the request head counted until the request ends.
    pub(crate) fn hold_head(&mut self, head: Hold) {
        self.head = Some(head);
    }

    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Ends `span` with this record.
    pub(crate) fn trace(&mut self, span: Span) {
        self.span = Some(Box::new(span));
    }

    /// Adds the trace context to the upstream request.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.propagate(headers);
        }
    }

    /// The labels of the request are known.
    pub(crate) fn routed(&mut self, model: &Arc<str>, pool: &Arc<str>) {
        self.series = self.metrics.series(model, pool);
    }

    /// Collects an explanation from now on, if the request asks for one.
    pub(crate) fn explain_to(&mut self, explanation: Option<Box<Explanation>>) {
        self.explanation = explanation;
    }

    /// Updates the explanation, if the request asks for one.
    pub(crate) fn explain(&mut self, update: impl FnOnce(&mut Explanation)) {
        if let Some(explanation) = &mut self.explanation {
            update(explanation);
        }
    }

    pub(crate) fn explanation(&self) -> Option<HeaderValue> {
        self.explanation.as_ref()?.to_header_value()
    }

    /// Time that does not count as processing time of the gateway.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.waited += wait;
    }

    pub(crate) fn picked(&mut self, wait: Duration) {
        self.waited += wait;
        self.metrics.pick_duration.observe(wait.as_secs_f64());
    }

    /// The request is about to be sent to an endpoint.
    pub(crate) fn sending(&mut self, now: Instant) {
        self.sent = Some(now);
        let processing = now.duration_since(self.arrived).saturating_sub(self.waited);
        self.metrics.processing.observe(processing.as_secs_f64());
    }

    /// The status that the client gets.
    pub(crate) fn responding(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Bytes of the response body that were sent to the client.
    pub(crate) fn body_bytes(&mut self, bytes: usize) {
        self.body_bytes += bytes as u64;
    }

    /// The first event of a stream, or the first byte of another response body.
    pub(crate) fn first_token(&mut self) {
        if self.ttft.is_none() {
            let ttft = self.arrived.elapsed();
            self.ttft = Some(ttft);
            self.series.time_to_first_token.observe(ttft.as_secs_f64());
        }
    }

    /// Something was found in the response body.
    pub(crate) fn found(&mut self, finding: Finding) {
        match finding {
            Finding::FirstEvent => self.first_token(),
            Finding::NextEvent(after) => self.series.inter_token_latency.observe(after.as_secs_f64()),
            // With continuous usage, each finding has the sum so far.
            Finding::Usage(usage) => self.usage = Some(usage),
            Finding::Error => {
                self.error = Some("stream_error");
                self.metrics.stream_error(&self.series.labels);
            }
        }
    }

    /// No engine responded, or the response was aborted.
    pub(crate) fn failed(&mut self, code: &'static str) {
        self.error = Some(code);
        self.metrics.failed(code);
    }

    pub(crate) fn served_by(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// The whole response has been handed to the client's connection.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
        let status = match self.status {
            Some(status) if self.is_complete => status,
            _ => client_closed_request(),
        };
        if let Some(sent) = self.sent {
            self.series.upstream.observe(sent.elapsed().as_secs_f64());
        }
        self.metrics.finished(&self.series, status);
        if let Some(usage) = self.usage {
            self.series.used(usage);
        }
        if let Some(span) = self.span.take() {
            span.end(&Ended {
                status,
                error: self.error,
                labels: &self.series.labels,
                endpoint: self.endpoint,
                ttft: self.ttft,
                usage: self.usage,
            });
        }
        let ModelLabels { model, pool } = &self.series.labels;
        // Without the query, which may contain secrets.
        if let Some(log) = &self.log {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            log.log(&Line {
                time: now.as_secs_f64(),
                method: self.method.as_str(),
                path: self.path.as_ref().map_or("", PathAndQuery::path),
                status: status.as_u16(),
                error: self.error,
                model,
                pool,
                endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
                request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()),
                duration_seconds: self.arrived.elapsed().as_secs_f64(),
                ttft_seconds: self.ttft.map(|ttft| ttft.as_secs_f64()),
                response_bytes: self.body_bytes,
                prompt_tokens: self.usage.and_then(|usage| usage.prompt_tokens),
                completion_tokens: self.usage.and_then(|usage| usage.completion_tokens),
            });
        }
        tracing::debug!(
            target: "access",
            method = %self.method,
            path = self.path.as_ref().map_or("", PathAndQuery::path),
            status = status.as_u16(),
            model = &**model,
            pool = &**pool,
            body_bytes = self.body_bytes,
            seconds = self.arrived.elapsed().as_secs_f64(),
        );
    }
}

/// Status 499 (client closed request). It is only used in logs and metrics; no client receives it.
pub(crate) fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}
