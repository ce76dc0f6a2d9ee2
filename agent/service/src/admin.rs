//! The admin HTTP server of a program: `/healthz`, and the program's own pages (metrics, readiness, debugging).

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};

use crate::places::{Limits, Place, Places};

/// Maximum connections. A further one is served in place of the oldest one, so that probes never wait for other clients.
const LIMITS: Limits = Limits { total: 64, per_peer: 16 };
/// Timeout for a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time of a connection, which serves one request: its head, and the client's reading of the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

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
    /// Some samples of the body may have exemplars.
    has_exemplars: bool,
}

impl Page {
    /// A page with status 200.
    pub fn new(content_type: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, content_type, body, has_exemplars: false }
    }

    /// OpenMetrics text with exemplars. Clients whose `Accept` does not name OpenMetrics get it without them.
    pub fn with_exemplars(body: String) -> Self {
        Self { has_exemplars: true, ..Self::new(OPEN_METRICS, body) }
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
        Self { status, content_type: "text/plain; charset=utf-8", body, has_exemplars: false }
    }

    fn into_response(self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let is_plain = self.has_exemplars && !accepts_open_metrics(headers);
        let body = if is_plain { without_exemplars(&self.body) } else { self.body };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

/// Serves `/healthz` and the pages that `page` returns for a path and a query, until the future is dropped. `name` is the listener's
/// name in the log.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    page: impl Fn(&str, Option<&str>) -> Option<Page> + Clone + Send + 'static,
) {
    let places = Places::new(name, LIMITS);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, place) = places.accept(&listener) => {
                connections.spawn(serve_connection(stream, place, page.clone()));
            }
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Serves one request. A connection has no further ones: an idle connection would only take a place.
async fn serve_connection(
    stream: TcpStream,
    place: Place,
    page: impl Fn(&str, Option<&str>) -> Option<Page> + Send + 'static,
) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let page = respond(request.method(), request.uri(), &page);
        async move { Ok::<_, Infallible>(page.into_response(request.headers())) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let connection = time::timeout(CONNECTION_TIMEOUT, connection);
    // Errors of a client's connection do not matter.
    let _ = place.must_close().run_until_cancelled(connection).await;
}

fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.contains("application/openmetrics-text"))
}

/// Cuts ` # {…} VALUE TIME` off samples: a `#` after the start of a line that is not in the value of a label.
fn without_exemplars(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match exemplar(line) {
            Some(at) => {
                plain.push_str(line[..at].trim_end());
                plain.push('\n');
            }
            None => plain.push_str(line),
        }
    }
    plain
}

fn exemplar(line: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate().skip_while(|_| line.starts_with('#')) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'#' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Routes a request.
fn respond(method: &Method, uri: &Uri, page: &impl Fn(&str, Option<&str>) -> Option<Page>) -> Page {
    if method != Method::GET && method != Method::HEAD {
        return Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n".into());
    }
    if uri.path() == "/healthz" {
        return Page::probe(Ok(()));
    }
    page(uri.path(), uri.query())
        .unwrap_or_else(|| Page::text(StatusCode::NOT_FOUND, "no such page\n".into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn every_path_and_method_has_a_response() {
        let page = |path: &str, query: Option<&str>| match path {
            "/readyz" => Some(Page::probe(Err("not yet".into()))),
            "/query" => Some(Page::new(PROMETHEUS_TEXT, query.unwrap_or("none").into())),
            "/metrics" => Some(Page::new(PROMETHEUS_TEXT, "up 1\n".into())),
            _ => None,
        };
        for (method, path, status, body) in [
            (Method::GET, "/healthz", 200, "ok\n"),
            (Method::HEAD, "/metrics", 200, "up 1\n"),
            (Method::GET, "/readyz", 503, "not yet\n"),
            (Method::GET, "/query?a=b", 200, "a=b"),
            (Method::GET, "/query", 200, "none"),
            (Method::GET, "/", 404, "no such page\n"),
            (Method::POST, "/metrics", 405, "only GET is allowed\n"),
        ] {
            let response = respond(&method, &Uri::from_static(path), &page);
            assert_eq!((response.status.as_u16(), response.body.as_str()), (status, body), "{method} {path}");
        }
    }

    #[test]
    fn exemplars_are_for_clients_that_accept_open_metrics() {
        let plain = "# TYPE a histogram\n# HELP a #1 of \"all\na_bucket{le=\"1.0\",b=\"x\\\" # {\"} 3\na_sum 2.5\n# EOF\n";
        let rich = plain.replace("} 3", "} 3 # {trace_id=\"4b\"} 0.7 1.5e9");
        let body = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))));
            let response = Page::with_exemplars(rich.clone()).into_response(&headers);
            let bytes = http_body_util::BodyExt::collect(response.into_body());
            let bytes = futures_util::FutureExt::now_or_never(bytes).unwrap().unwrap().to_bytes();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        assert_eq!(body(Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")), rich);
        assert_eq!(body(Some("text/plain")), plain);
        assert_eq!(body(None), plain);
    }

    async fn start() -> (std::net::SocketAddr, tokio_util::task::AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = "forebay_series 1\n".repeat(1 << 20);
        let page = move |path: &str, _: Option<&str>| {
            (path == "/metrics").then(|| Page::new(PROMETHEUS_TEXT, large.clone()))
        };
        (address, tokio_util::task::AbortOnDropHandle::new(tokio::spawn(serve("test", listener, page))))
    }

    async fn probe(address: std::net::SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: kubelet\r\n\r\n").await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    /// The kubelet's timeout of a probe is 1 s. Places that only deadlines release are taken for longer than that.
    #[tokio::test]
    async fn probes_are_served_beside_silent_clients_and_slow_readers_of_the_same_address() {
        let (address, _server) = start().await;
        let mut clients = Vec::new();
        for n in 0..200 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let sent: &[u8] = match n % 4 {
                0 => b"",
                1 => b"G",
                2 => b"GET /healthz HTTP/1.1\r\nhost: ",
                // Does not read the response.
                _ => b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n",
            };
            // Fails if the connection was closed already.
            let _ = client.write_all(sent).await;
            clients.push(client);
        }
        for _ in 0..5 {
            let response = time::timeout(Duration::from_secs(1), probe(address)).await.expect("in time");
            assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("ok\n"), "{response}");
        }
    }

    /// Clients that send nothing, an incomplete head, or do not read, are closed by deadlines.
    #[tokio::test(start_paused = true)]
    async fn incomplete_requests_and_unread_responses_end_by_deadlines() {
        for sent in ["", "G", "GET /healthz HTTP/1.1\r\nhost: ", "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            let places = Places::new("test", LIMITS);
            let large = "x".repeat(64 << 20);
            let page = move |_: &str, _: Option<&str>| Some(Page::new(PROMETHEUS_TEXT, large.clone()));
            let place = places.take(peer.ip()).unwrap();
            let serving = serve_connection(stream, place, page);
            time::timeout(CONNECTION_TIMEOUT * 2, serving).await.unwrap_or_else(|_| panic!("{sent:?}"));
            assert_eq!(places.count(), 0);
        }
    }
}
