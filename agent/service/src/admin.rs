//! The admin HTTP server of a program: `/healthz`, and the program's own pages (metrics, readiness, debugging).

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time};

/// Maximum connections at one time. More wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
/// Timeout for a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum age of a connection.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Content type of the Prometheus text format 0.0.4.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of OpenMetrics text, which `prometheus-client` writes.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The response to a GET.
#[derive(Clone, Debug)]
pub struct Page {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Page {
    /// A page with status 200.
    pub fn new(content_type: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, content_type, body }
    }

    /// The response to a probe: 200, or 503 with the reason.
    pub fn probe(state: Result<(), String>) -> Self {
        match state {
            Ok(()) => Self::text(StatusCode::OK, "ok\n".into()),
            Err(reason) => Self::text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
        }
    }

    /// Status 500: the page cannot be generated.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
    }

    fn text(status: StatusCode, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

/// Serves `/healthz` and the pages that `page` returns for a path, until the future is dropped.
pub async fn serve(listener: TcpListener, page: impl Fn(&str) -> Option<Page> + Clone + Send + 'static) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, retry_in = ?ACCEPT_PAUSE, "cannot accept on the admin listener");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let page = page.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let page = respond(request.method(), request.uri().path(), &page);
                async move { Ok::<_, Infallible>(page.into_response()) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // Errors of a client's connection do not matter.
            let _ = time::timeout(CONNECTION_LIFETIME, connection).await;
            drop(permit);
        });
    }
}

/// Routes a request.
fn respond(method: &Method, path: &str, page: &impl Fn(&str) -> Option<Page>) -> Page {
    if method != Method::GET && method != Method::HEAD {
        return Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n".into());
    }
    if path == "/healthz" {
        return Page::probe(Ok(()));
    }
    page(path).unwrap_or_else(|| Page::text(StatusCode::NOT_FOUND, "no such page\n".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_and_method_has_a_response() {
        let page = |path: &str| match path {
            "/readyz" => Some(Page::probe(Err("not yet".into()))),
            "/metrics" => Some(Page::new(PROMETHEUS_TEXT, "up 1\n".into())),
            _ => None,
        };
        for (method, path, status, body) in [
            (Method::GET, "/healthz", 200, "ok\n"),
            (Method::HEAD, "/metrics", 200, "up 1\n"),
            (Method::GET, "/readyz", 503, "not yet\n"),
            (Method::GET, "/", 404, "no such page\n"),
            (Method::POST, "/metrics", 405, "only GET is allowed\n"),
        ] {
            let response = respond(&method, path, &page);
            assert_eq!((response.status.as_u16(), response.body.as_str()), (status, body), "{method} {path}");
        }
    }
}
