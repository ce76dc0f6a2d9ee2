//! The HTTP server of the page.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_service::places::{Limits, Place, Places};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{
    assets::Asset,
    chat::Chat,
    events,
    guard::Guard,
    response::{self, Body, JSON, error, respond},
};

/// Maximum connections. A further one is served in place of the oldest idle one. All peers are this machine.
const LIMITS: Limits = Limits { total: 64, per_peer: 64 };
/// Maximum streams of documents, one for each open page.
const MAX_SUBSCRIBERS: usize = 16;
/// Timeout for a complete request head, and for the next request of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The page loads only its own files, and talks only to this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SECURITY: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (CACHE_CONTROL, "no-store"),
];

/// What the responses are made of.
#[derive(Debug)]
pub(super) struct Site {
    guard: Guard,
    /// The newest document, as an event.
    published: watch::Receiver<Bytes>,
    subscribers: Arc<Semaphore>,
    chat: Option<Chat>,
}

impl Site {
    pub(super) fn new(guard: Guard, published: watch::Receiver<Bytes>, chat: Option<Chat>) -> Self {
        Self { guard, published, subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)), chat }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut response = match self.guard.check(&head) {
            Err(refusal) => error(refusal.status(), refusal.code(), refusal.message()),
            Ok(()) => self.route(&head.method, head.uri.path(), &head.headers, body).await,
        };
        for (name, value) in SECURITY {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn route(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<Body> {
        let is_read = method == Method::GET || method == Method::HEAD;
        if let Some(asset) = Asset::find(path) {
            return if is_read {
                respond(StatusCode::OK, asset.content_type(), Bytes::from_static(asset.body))
            } else {
                not_allowed("GET")
            };
        }
        if !path.starts_with("/api/") {
            return error(StatusCode::NOT_FOUND, "not_found", "the dashboard has no such path");
        }
        if let Err(refusal) = self.guard.check_token(headers) {
            return error(refusal.status(), refusal.code(), refusal.message());
        }
        match path {
            "/api/fleet" if is_read => {
                let document = events::document(&self.published.borrow());
                respond(StatusCode::OK, JSON, document)
            }
            "/api/events" if method == Method::GET => self.subscribe(),
            "/api/chat" if method == Method::POST => match &self.chat {
                Some(chat) => chat.respond(body).await,
                None => error(
                    StatusCode::NOT_FOUND,
                    "no_gateway",
                    "prompts need a gateway: start with --gateway ADDRESS:PORT",
                ),
            },
            "/api/fleet" | "/api/events" => not_allowed("GET"),
            "/api/chat" => not_allowed("POST"),
            _ => error(StatusCode::NOT_FOUND, "not_found", "the dashboard has no such path"),
        }
    }

    fn subscribe(&self) -> Response<Body> {
        match Arc::clone(&self.subscribers).try_acquire_owned() {
            Ok(place) => response::events(events::body(self.published.clone(), place)),
            Err(_) => error(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_subscribers",
                "16 pages are open, which is the maximum: close one",
            ),
        }
    }
}

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, site: Arc<Site>) -> Infallible {
    let places = Places::new("dashboard", LIMITS);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, place) = places.accept(&listener) => {
                connections.spawn(serve_connection(TokioIo::new(stream), place, Arc::clone(&site)));
            }
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn serve_connection(stream: TokioIo<tokio::net::TcpStream>, place: Place, site: Arc<Site>) {
    let must_close = place.must_close().clone();
    let service = service_fn(move |request| {
        let (site, open) = (Arc::clone(&site), place.open_request());
        async move {
            let response = site.respond(request).await;
            // Open until the end of the body: a stream is not closed for another connection.
            let held = move |frame| {
                let _ = &open;
                frame
            };
            Ok::<_, Infallible>(response.map(|body| body.map_frame(held).boxed_unsync()))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(stream, service);
    // Errors of a client's connection do not matter.
    let _ = must_close.run_until_cancelled(connection).await;
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response =
        error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the path has no such method");
    response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(allowed));
    response
}
