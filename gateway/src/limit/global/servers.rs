//! The servers that policies name, and calls to them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_routing::{RateLimitServer, ServerTls};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::message::{Code, Request, Response};
use super::metrics::{CallResult, LimitServerMetrics};
use crate::server_tls::Connector;

/// Maximum time for an answer, all endpoints together.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum endpoints that are asked for one answer.
const MAX_ENDPOINTS: usize = 2;
const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("its Service has no ready endpoint, or cannot be used")]
    NoEndpoint,
    #[error("it did not answer within {} ms", TIMEOUT.as_millis())]
    Timeout,
    #[error("{endpoint} cannot be asked: {source}")]
    NotReady { endpoint: SocketAddr, source: tonic::transport::Error },
    #[error("{endpoint} answered with {:?}: {}", status.code(), status.message())]
    Status { endpoint: SocketAddr, status: tonic::Status },
    #[error("{0} answered without a code")]
    NoCode(SocketAddr),
}

/// A server, as one routing table has it.
#[derive(Debug)]
pub(crate) struct LimitServer {
    name: String,
    endpoints: Vec<(SocketAddr, Channel)>,
    tls: Option<ServerTls>,
    /// Whose turn it is.
    next: AtomicUsize,
    /// The last call failed, which was logged.
    is_failing: AtomicBool,
    metrics: LimitServerMetrics,
}

impl LimitServer {
    /// Asks one endpoint, and another one if that is not reachable.
    pub(super) async fn ask(&self, request: &Request) -> Result<Response, Failure> {
        let asking = tokio::time::timeout(TIMEOUT, self.ask_endpoints(request));
        let answer = asking.await.unwrap_or(Err(Failure::Timeout));
        self.log_change(answer.as_ref().err());
        answer
    }

    async fn ask_endpoints(&self, request: &Request) -> Result<Response, Failure> {
        let mut failed = Failure::NoEndpoint;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let endpoints = self.endpoints.iter().cycle().skip(first % self.endpoints.len().max(1));
        for (endpoint, channel) in endpoints.take(self.endpoints.len().min(MAX_ENDPOINTS)) {
            match ask(*endpoint, channel.clone(), request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = error,
            }
            let is_reached = matches!(&failed, Failure::Status { status, .. } if status.code() != tonic::Code::Unavailable);
            if is_reached {
                break;
            }
        }
        Err(failed)
    }

    /// One line when it starts to fail, and one when it answers again.
    fn log_change(&self, failure: Option<&Failure>) {
        match failure {
            Some(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(server = self.name, "the rate limit server gives no answer: {error}");
            }
            None if self.is_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(server = self.name, "the rate limit server answers again");
            }
            _ => {}
        }
    }

    pub(super) fn count(&self, result: CallResult) {
        self.metrics.called(&self.name, result);
    }
}

async fn ask(endpoint: SocketAddr, channel: Channel, request: Request) -> Result<Response, Failure> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|source| Failure::NotReady { endpoint, source })?;
    let codec = ProstCodec::<Request, Response>::default();
    let response = client.unary(tonic::Request::new(request), PathAndQuery::from_static(METHOD), codec).await;
    let response = response.map_err(|status| Failure::Status { endpoint, status })?.into_inner();
    match response.overall_code() {
        Code::Ok | Code::OverLimit => Ok(response),
        Code::Unknown => Err(Failure::NoCode(endpoint)),
    }
}

/// The servers of one routing table.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitServers(Arc<HashMap<RateLimitServer, Arc<LimitServer>>>);

impl LimitServers {
    pub(super) fn get(&self, server: &RateLimitServer) -> Option<&Arc<LimitServer>> {
        self.0.get(server)
    }
}

/// The servers of all policies, which survive changes of the routing table.
#[derive(Debug)]
pub(crate) struct LimitServerRegistry {
    metrics: LimitServerMetrics,
    servers: LimitServers,
}

impl LimitServerRegistry {
    pub(crate) fn new(metrics: LimitServerMetrics) -> Self {
        Self { metrics, servers: LimitServers::default() }
    }

    /// The servers that the newest table names. A connection to an endpoint is kept. Must be called in a tokio runtime.
    pub(crate) fn update(
        &mut self,
        wanted: &BTreeMap<&RateLimitServer, (&[SocketAddr], Option<&ServerTls>)>,
    ) -> LimitServers {
        let old = std::mem::take(&mut self.servers);
        let server =
            |(server, (endpoints, tls)): (&&RateLimitServer, &(&[SocketAddr], Option<&ServerTls>))| {
                let server = RateLimitServer::clone(server);
                let known = old.get(&server).filter(|known| known.tls.as_ref() == *tls);
                let updated = match known {
                    Some(known) if known.endpoints.iter().map(|it| &it.0).eq(endpoints.iter()) => {
                        known.clone()
                    }
                    known => {
                        Arc::new(self.server(&server, endpoints, *tls, known.map(|it| &it.endpoints[..])))
                    }
                };
                (server, updated)
            };
        self.servers = LimitServers(Arc::new(wanted.iter().map(server).collect()));
        for (name, _) in old.0.iter().filter(|(name, _)| !wanted.contains_key(name)) {
            self.metrics.forget(&name.to_string());
        }
        self.servers.clone()
    }

    fn server(
        &self,
        server: &RateLimitServer,
        endpoints: &[SocketAddr],
        tls: Option<&ServerTls>,
        known: Option<&[(SocketAddr, Channel)]>,
    ) -> LimitServer {
        let connector = tls.map(|tls| Connector::new(tls, &[b"h2"])).transpose();
        let connector = connector.unwrap_or_else(|error| {
            tracing::warn!(%server, %error, "the certificates of the authorities of a rate limit server cannot be used");
            None
        });
        // Never without TLS where it is required.
        let endpoints = if tls.is_some() && connector.is_none() { &[] } else { endpoints };
        let channel = |endpoint: &SocketAddr| {
            let open = known.unwrap_or_default().iter().find(|(known, _)| known == endpoint);
            Some((
                *endpoint,
                open.map(|(_, channel)| channel.clone()).or_else(|| connect(*endpoint, connector.clone()))?,
            ))
        };
        LimitServer {
            name: server.to_string(),
            endpoints: endpoints.iter().filter_map(channel).collect(),
            tls: tls.cloned(),
            next: AtomicUsize::new(0),
            is_failing: AtomicBool::new(false),
            metrics: self.metrics.clone(),
        }
    }
}

/// Connects with the first call, and again after a failure.
fn connect(address: SocketAddr, connector: Option<Connector>) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint.connect_timeout(TIMEOUT).tcp_nodelay(true);
    let Some(connector) = connector else { return Some(endpoint.connect_lazy()) };
    let origin =
        Uri::builder().scheme("https").authority(connector.name()).path_and_query("/").build().ok()?;
    Some(endpoint.origin(origin).connect_with_connector_lazy(TlsConnection { address, connector }))
}

/// Opens connections with TLS.
struct TlsConnection {
    address: SocketAddr,
    connector: Connector,
}

impl Service<Uri> for TlsConnection {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, connector) = (self.address, self.connector.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(connector.connect(stream).await?))
        })
    }
}
