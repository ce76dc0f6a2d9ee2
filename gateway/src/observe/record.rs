use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_openai::{Finding, ModelName, Usage};
use forebay_routing::{ApiKey, ClientCertificate, Identity, Jwt};
use forebay_usage::{Tokens, UsageRecord};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use super::access::Line;
use super::exemplars::{TraceLabels, observe};
use super::explain::Explanation;
use super::gen_ai::ErrorType;
use super::labels::ModelLabels;
use super::logs::Logs;
use super::metrics::{Metrics, Series};
use super::traces::{Ended, Span};
use crate::hold::Hold;
use crate::limit::{Admission, Served};

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
    logs: Logs,
    /// Model of the client and its base model, for the usage log.
    asked_for: Option<(ModelName, Option<HeaderValue>)>,
    /// Boxed: tracing is off by default.
    span: Option<Box<Span>>,
    explanation: Option<Box<Explanation>>,
    /// Memory of a large head.
    head: Option<Hold>,
    /// Of the caller.
    api_key: Option<Arc<ApiKey>>,
    jwt: Option<Arc<Jwt>>,
    certificate: Option<Arc<ClientCertificate>>,
    /// What was taken from rate limits.
    admission: Option<Box<Admission>>,
    /// Events of a stream. `None` for other responses.
    events: Option<u64>,
}

impl Record {
    /// `unknown`: label value until the model and pool are known.
    pub(crate) fn begin(
        metrics: Arc<Metrics>,
        logs: Logs,
        head: &request::Parts,
        unknown: &Arc<str>,
    ) -> Box<Self> {
        metrics.active_requests.inc();
        let series = metrics.unknown_series(unknown);
        let request_id = logs.access.as_ref().and_then(|_| head.headers.get(REQUEST_ID).cloned());
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
            logs,
            asked_for: None,
            span: None,
            explanation: None,
            head: None,
            api_key: None,
            jwt: None,
            certificate: None,
            admission: None,
            events: None,
        })
    }

    /// Keeps the memory of the request head counted until the request ends.
    pub(crate) fn hold_head(&mut self, head: Hold) {
        self.head = Some(head);
    }

    /// The caller is known.
    pub(crate) fn identified(&mut self, identity: &Identity<'_>) {
        self.api_key = identity.key.cloned();
        self.jwt = identity.jwt.clone();
        self.certificate = identity.certificate.clone();
    }

    /// The client asked for `model`, which `base` serves.
    pub(crate) fn asked_for(&mut self, model: &ModelName, base: Option<&HeaderValue>) {
        if self.logs.usage.is_some() {
            self.asked_for = Some((model.clone(), base.cloned()));
        }
    }

    /// What was taken from rate limits is settled when the request ends.
    pub(crate) fn admitted(&mut self, admission: Option<Box<Admission>>) {
        self.admission = admission;
    }

    /// What is left of the rate limits and quotas.
    pub(crate) fn set_rate_limit_headers(&self, headers: &mut HeaderMap) {
        if let Some(admission) = &self.admission {
            admission.set_headers(headers);
        }
    }

    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Ends `span` with this record.
    pub(crate) fn trace(&mut self, span: Span) {
        self.span = Some(Box::new(span));
    }

    fn trace_labels(&self) -> Option<TraceLabels> {
        self.span.as_ref()?.labels()
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

    pub(crate) fn is_explained(&self) -> bool {
        self.explanation.is_some()
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

    /// The response is a stream of events.
    pub(crate) fn streams(&mut self) {
        self.events = Some(0);
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
            observe(&self.series.time_to_first_token, ttft, self.trace_labels());
        }
    }

    /// Something was found in the response body.
    pub(crate) fn found(&mut self, finding: Finding) {
        match finding {
            Finding::FirstEvent => {
                self.count_event();
                self.first_token();
            }
            Finding::NextEvent(after) => {
                self.count_event();
                self.series.inter_token_latency.observe(after.as_secs_f64());
            }
            // With continuous usage, each finding has the sum so far.
            Finding::Usage(usage) => self.usage = Some(usage),
            Finding::Error => {
                self.error = Some("stream_error");
                self.metrics.stream_error(&self.series.labels);
            }
        }
    }

    fn count_event(&mut self) {
        if let Some(events) = &mut self.events {
            *events += 1;
        }
    }

    /// What the request has used of rate limits.
    fn served(&self) -> Served {
        let is_error = self.status.is_some_and(|status| !status.is_success());
        match (self.usage, self.events) {
            _ if self.sent.is_none() => Served::Failed,
            (Some(usage), _) => Served::Reported(usage),
            (None, Some(events)) => Served::Streamed { events },
            (None, None) if is_error => Served::Failed,
            (None, None) => Served::Unknown,
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
        // Now, so that the next request of the client finds what this one has left.
        self.settle();
    }

    /// Name of the caller's key, else the subject of its token, else the name in its certificate.
    fn caller(&self) -> Option<String> {
        let of_token = || self.jwt.as_ref().and_then(|jwt| jwt.subject.clone());
        let of_certificate = || self.certificate.as_ref().map(|it| it.name().to_owned());
        self.api_key.as_ref().map(|key| key.name.clone()).or_else(of_token).or_else(of_certificate)
    }

    fn usage_record(&self, status: StatusCode) -> UsageRecord {
        let asked = self.asked_for.as_ref();
        let model = asked.map_or(&*self.series.labels.model, |(model, _)| model.as_str());
        let base = asked.and_then(|(_, base)| base.as_ref()?.to_str().ok());
        UsageRecord {
            time: SystemTime::now(),
            api_key: self.caller(),
            group: self.api_key.as_ref().and_then(|key| key.group()).map(str::to_owned),
            model: model.to_owned(),
            base_model: base.filter(|base| *base != model).map(str::to_owned),
            pool: self.series.labels.pool.to_string(),
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            status: status.as_u16(),
            error: self.error,
            tokens: self.usage.map(|usage| Tokens {
                prompt: usage.prompt_tokens,
                cached: usage.cached_tokens,
                completion: usage.completion_tokens,
                reasoning: usage.reasoning_tokens,
            }),
            ttft: self.ttft,
            duration: self.arrived.elapsed(),
        }
    }

    fn error_type(&self, status: StatusCode) -> Option<ErrorType> {
        match status.as_u16() {
            status @ 400.. => Some(ErrorType::Status(status)),
            _ => self.error.map(ErrorType::Code),
        }
    }

    /// Writes the logs. `path`: without the query, which may contain secrets.
    fn log(&self, path: &str, status: StatusCode) {
        if let Some(log) = &self.logs.usage
            && self.sent.is_some()
        {
            log.log(self.usage_record(status));
        }
        let Some(log) = &self.logs.access else { return };
        let ModelLabels { model, pool } = &self.series.labels;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        log.log(&Line {
            time: now.as_secs_f64(),
            method: self.method.as_str(),
            path,
            status: status.as_u16(),
            error: self.error,
            model,
            pool,
            api_key: self.api_key.as_ref().map(|key| key.name.as_str()),
            jwt_issuer: self.jwt.as_ref().map(|jwt| jwt.issuer.as_str()),
            jwt_subject: self.jwt.as_ref().and_then(|jwt| jwt.subject.as_deref()),
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()),
            duration_seconds: self.arrived.elapsed().as_secs_f64(),
            ttft_seconds: self.ttft.map(|ttft| ttft.as_secs_f64()),
            response_bytes: self.body_bytes,
            prompt_tokens: self.usage.and_then(|usage| usage.prompt_tokens),
            completion_tokens: self.usage.and_then(|usage| usage.completion_tokens),
            cached_tokens: self.usage.and_then(|usage| usage.cached_tokens),
            reasoning_tokens: self.usage.and_then(|usage| usage.reasoning_tokens),
        });
    }

    fn settle(&mut self) {
        if let Some(admission) = self.admission.take() {
            admission.settle(self.served(), Instant::now());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
        let status = match self.status {
            Some(status) if self.is_complete => status,
            _ => client_closed_request(),
        };
        self.settle();
        let trace = self.trace_labels();
        if let Some(sent) = self.sent {
            observe(&self.series.upstream, sent.elapsed(), trace);
        }
        self.metrics.finished(&self.series, status);
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        self.series.ended(path, (self.arrived.elapsed(), trace), self.error_type(status), self.usage);
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
        self.log(path, status);
        let ModelLabels { model, pool } = &self.series.labels;
        tracing::debug!(
            target: "access",
            method = %self.method,
            path,
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
