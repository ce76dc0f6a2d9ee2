//! `/metrics`, `/healthz`, `/readyz` and `/endpoints`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_agent::resources::{ObjectKey, Store};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time};

use super::Metrics;
use crate::{endpoints::Endpoints, protocol::health};

/// Probes and scrapers; more than this wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is not kept longer, idle or not.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// After a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: ObjectKey,
}

/// Serves until it is dropped, and all connections with it.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the HTTP listener");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let admin = admin.clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client's broken connection is its own affair.
            let _ = time::timeout(CONNECTION_LIFETIME, connection).await;
            drop(permit);
        });
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/metrics" => match self.metrics.text() {
                Ok(metrics) => respond(
                    StatusCode::OK,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    metrics,
                ),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" if health::is_ready(&self.store, &self.pool) => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => {
                let reason = format!("InferencePool {} is not loaded\n", self.pool);
                text(StatusCode::SERVICE_UNAVAILABLE, reason)
            }
            "/endpoints" => {
                respond(StatusCode::OK, "application/json", format!("{:#}\n", self.endpoints_json()))
            }
            _ => text(StatusCode::NOT_FOUND, "/metrics /healthz /readyz /endpoints\n".into()),
        }
    }

    fn endpoints_json(&self) -> Value {
        let milliseconds = |age: Option<Duration>| age.map(|age| age.as_secs_f64() * 1000.0);
        let endpoints: Vec<Value> = self.endpoints.endpoints().iter().map(|view| {
            json!({
                "address": view.endpoint.address,
                "pod": view.endpoint.pod.to_string(),
                "uid": view.endpoint.uid,
                "node": view.endpoint.node_name,
                "load": view.load,
                "source": view.source.name(),
                "score": view.score,
                "gpu_lost": view.gpu_lost,
                "open_picks": view.open_picks,
                "picks_beside_kernel": view.picks_beside_kernel,
                "kernel": { "in_flight": view.kernel_in_flight, "age_ms": milliseconds(view.kernel_age) },
                "engine": { "running": view.engine_running, "waiting": view.engine_waiting, "age_ms": milliseconds(view.engine_age) },
            })
        }).collect();
        let agents: Vec<Value> = self
            .endpoints
            .agents()
            .iter()
            .map(|agent| {
                json!({
                    "address": agent.address,
                    "node": agent.node,
                    "connected": agent.connected,
                    "frame_age_ms": milliseconds(agent.frame_age),
                })
            })
            .collect();
        json!({ "pool": self.pool.to_string(), "endpoints": endpoints, "agents": agents })
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
