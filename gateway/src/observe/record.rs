use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};

use super::Metrics;
use super::metrics::{ModelLabels, RequestLabels, UNKNOWN};
use crate::error::client_closed_request;

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
    first_byte_seen: bool,
    model: Arc<str>,
    pool: Arc<str>,
    status: Option<StatusCode>,
    whole: bool,
    body_bytes: u64,
}

impl Record {
    pub(crate) fn begin(metrics: Arc<Metrics>, method: Method, uri: &Uri, unknown: &Arc<str>) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics,
            method,
            path: uri.path_and_query().cloned(),
            arrived: Instant::now(),
            waited: Duration::ZERO,
            sent: None,
            first_byte_seen: false,
            model: unknown.clone(),
            pool: unknown.clone(),
            status: None,
            whole: false,
            body_bytes: 0,
        }
    }

    /// The label of models and pools that the resources do not name.
    pub(crate) fn unknown_label() -> Arc<str> {
        Arc::from(UNKNOWN)
    }

    pub(crate) fn routed(&mut self, model: &Arc<str>, pool: &Arc<str>) {
        self.model = model.clone();
        self.pool = pool.clone();
    }

    pub(crate) fn waited(&mut self, wait: Duration) {
        self.waited += wait;
    }

    pub(crate) fn picked(&mut self, wait: Duration) {
        self.waited += wait;
        self.metrics.picking.observe(wait.as_secs_f64());
    }

    /// The request is about to be sent to a pod.
    pub(crate) fn sending(&mut self) {
        let now = Instant::now();
        self.sent = Some(now);
        let own = now.duration_since(self.arrived).saturating_sub(self.waited);
        self.metrics.processing.observe(own.as_secs_f64());
    }

    pub(crate) fn answering(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(crate) fn body_bytes(&mut self, bytes: usize) {
        if !self.first_byte_seen {
            self.first_byte_seen = true;
            let ttft = self.arrived.elapsed().as_secs_f64();
            self.metrics.ttft.get_or_create(&self.labels()).observe(ttft);
        }
        self.body_bytes += bytes as u64;
    }

    /// All of the response has been handed over.
    pub(crate) fn whole(&mut self) {
        self.whole = true;
    }

    fn labels(&self) -> ModelLabels {
        ModelLabels { model: self.model.clone(), pool: self.pool.clone() }
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
            self.metrics.upstream.get_or_create(&self.labels()).observe(sent.elapsed().as_secs_f64());
        }
        self.metrics.finished(&RequestLabels {
            model: self.model.clone(),
            pool: self.pool.clone(),
            code: status.as_u16(),
        });
        // The path without its query, which may hold secrets.
        tracing::debug!(
            target: "access",
            method = %self.method,
            path = self.path.as_ref().map_or("", PathAndQuery::path),
            status = status.as_u16(),
            model = &*self.model,
            pool = &*self.pool,
            body_bytes = self.body_bytes,
            seconds = self.arrived.elapsed().as_secs_f64(),
        );
    }
}
