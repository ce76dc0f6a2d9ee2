use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use super::Metrics;
use super::access::{AccessLog, Line};
use super::explain::Explanation;
use super::metrics::{ModelLabels, Series, UNKNOWN};
use super::traces::{Ended, Span};
use crate::answer::{Seen, Usage};
use crate::error::client_closed_request;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is measured of one request. It lives as long as the request, wherever
/// that ends: dropped before the response was whole, the client had left.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    method: Method,
    path: Option<PathAndQuery>,
    arrived: Instant,
    /// Waits before the request was sent on that are not the gateway's own.
    waited: Duration,
    sent: Option<Instant>,
    series: Arc<Series>,
    status: Option<StatusCode>,
    whole: bool,
    body_bytes: u64,
    ttft: Option<Duration>,
    usage: Option<Usage>,
    error: Option<&'static str>,
    endpoint: Option<SocketAddr>,
    request_id: Option<HeaderValue>,
    log: Option<Arc<AccessLog>>,
    /// Boxed: most gateways trace nothing.
    span: Option<Box<Span>>,
    explanation: Option<Box<Explanation>>,
}

impl Record {
    pub(crate) fn begin(
        metrics: Arc<Metrics>,
        log: Option<Arc<AccessLog>>,
        head: &request::Parts,
        unknown: &Arc<str>,
    ) -> Box<Self> {
        metrics.active_requests.inc();
        let series = metrics.unknown_series(unknown);
        let request_id = log.as_ref().and_then(|_| head.headers.get(REQUEST_ID).cloned());
        // Boxed: it goes from hand to hand.
        Box::new(Self {
            metrics,
            method: head.method.clone(),
            path: head.uri.path_and_query().cloned(),
            arrived: Instant::now(),
            waited: Duration::ZERO,
            sent: None,
            series,
            status: None,
            whole: false,
            body_bytes: 0,
            ttft: None,
            usage: None,
            error: None,
            endpoint: None,
            request_id,
            log,
            span: None,
            explanation: None,
        })
    }

    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    pub(crate) fn trace(&mut self, span: Span) {
        self.span = Some(Box::new(span));
    }

    /// Puts the span into the request for the model server.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.propagate(headers);
        }
    }

    /// The label of models and pools that the resources do not name.
    pub(crate) fn unknown_label() -> Arc<str> {
        Arc::from(UNKNOWN)
    }

    pub(crate) fn routed(&mut self, model: &Arc<str>, pool: &Arc<str>) {
        self.series = self.metrics.series(model, pool);
    }

    /// From now on it is kept what becomes of the request.
    pub(crate) fn explain_to(&mut self, asked: Option<Box<Explanation>>) {
        self.explanation = asked;
    }

    /// For who has asked; nothing is done for others.
    pub(crate) fn explain(&mut self, say: impl FnOnce(&mut Explanation)) {
        if let Some(explanation) = &mut self.explanation {
            say(explanation);
        }
    }

    pub(crate) fn explanation(&self) -> Option<HeaderValue> {
        self.explanation.as_ref()?.to_header_value()
    }

    pub(crate) fn waited(&mut self, wait: Duration) {
        self.waited += wait;
    }

    pub(crate) fn picked(&mut self, wait: Duration) {
        self.waited += wait;
        self.metrics.picking.observe(wait.as_secs_f64());
    }

    /// The request is about to be sent to a pod; `now` is the time.
    pub(crate) fn sending(&mut self, now: Instant) {
        self.sent = Some(now);
        let own = now.duration_since(self.arrived).saturating_sub(self.waited);
        self.metrics.processing.observe(own.as_secs_f64());
    }

    pub(crate) fn answering(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(crate) fn body_bytes(&mut self, bytes: usize) {
        self.body_bytes += bytes as u64;
    }

    /// The first byte of a response body, of a stream the first event.
    pub(crate) fn first_token(&mut self) {
        if self.ttft.is_none() {
            let ttft = self.arrived.elapsed();
            self.ttft = Some(ttft);
            self.series.ttft.observe(ttft.as_secs_f64());
        }
    }

    /// What was read in the response.
    pub(crate) fn seen(&mut self, seen: Seen) {
        match seen {
            Seen::FirstEvent => self.first_token(),
            Seen::NextEvent(after) => self.series.itl.observe(after.as_secs_f64()),
            // With continuous usage, each says the sum so far.
            Seen::Usage(usage) => self.usage = Some(usage),
            Seen::Error => {
                self.error = Some("stream_error");
                self.metrics.stream_error(&self.series.labels);
            }
        }
    }

    /// No engine answered, or its response broke off.
    pub(crate) fn failed(&mut self, code: &'static str) {
        self.error = Some(code);
        self.metrics.failed(code);
    }

    pub(crate) fn served_by(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// All of the response has been handed over.
    pub(crate) fn whole(&mut self) {
        self.whole = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
        let status = match self.status {
            Some(status) if self.whole => status,
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
        // The path without its query, which may hold secrets.
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
                prompt_tokens: self.usage.map(|usage| usage.prompt_tokens),
                completion_tokens: self.usage.map(|usage| usage.completion_tokens),
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
