//! Prometheus text and health over HTTP.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Board, prometheus};

/// Scrapers and probes at one time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
/// A connection that sends no whole request head in this time is closed.
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// After a connection could not be accepted.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether the first list of pods has been read and attached to.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until told to stop.
pub async fn serve_http(
    listener: TcpListener,
    board: Arc<Board>,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                // Out of descriptors, most likely: asking again at once would fail again.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let board = Arc::clone(&board);
        let readiness = Arc::clone(&readiness);
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = answer(request.method(), request.uri().path(), &board, &readiness);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a metrics connection ended early");
            }
        });
    }
}

fn answer(method: &Method, path: &str, board: &Board, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, content_type, text) = match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::render(board)),
        (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/readyz") if readiness.is_ready() => {
            (StatusCode::OK, "text/plain", "ok\n".to_owned())
        }
        (&Method::GET, "/readyz") => (
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "the first list of pods is not read yet\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "this serves GET /metrics, /healthz and /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
