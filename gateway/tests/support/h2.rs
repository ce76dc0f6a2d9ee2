//! HTTP/2 backends without TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::within;

/// The response of a backend, or a failure of the request.
pub type Answer = hyper::Result<Response<BoxBody<Bytes, Infallible>>>;

pub fn text(text: impl Into<Bytes>) -> Response<BoxBody<Bytes, Infallible>> {
    Response::new(Full::new(text.into()).boxed())
}

/// Ended connections, until a test asks for them.
const MOST_CONNECTIONS: usize = 64;

/// Serves all connections until it is dropped.
pub struct H2Backend {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    ended: mpsc::Receiver<()>,
    accepting: JoinHandle<()>,
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl H2Backend {
    pub async fn start<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (ends, ended) = mpsc::channel(MOST_CONNECTIONS);
        let count = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (answer, ends) = (answer.clone(), ends.clone());
                serving.spawn(async move {
                    // Errors do not matter: tests only ask whether it has ended.
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                    let _ = ends.send(()).await;
                });
            }
        });
        Self { port, connections, ended, accepting }
    }

    /// Number of connections that were ever accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits for the end of a connection that no earlier call has returned.
    pub async fn a_connection_ends(&mut self) {
        within("a connection to end", self.ended.recv()).await.unwrap();
    }

    /// Panics if a connection has ended that no earlier call has returned.
    pub fn assert_none_ended(&mut self) {
        assert!(self.ended.try_recv().is_err(), "a connection has ended");
    }
}
