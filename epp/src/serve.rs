//! The process: listeners, servers, and shutdown.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use forebay_grpc::KEEP_ALIVE_IDLE;
use forebay_resources::{ObjectKey, Provider, ResourceSource, Store};
use forebay_service::{
    incoming::{self, Connection},
    places::Limits,
    tls::Identity,
};
use futures_util::{Stream, StreamExt as _};
use tokio::{net::TcpListener, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    Error, PickerOptions,
    admin::{self, Admin},
    health, interest,
    pools::{PoolScope, Pools},
    protocol::{ExtProc, ObeyedHeaders},
    schedule::Scheduler,
};

/// Maximum connections of gateways. Envoy and Forebay's gateway open one per thread.
const GATEWAY_LIMITS: Limits = Limits { total: 512, per_peer: 256 };
/// Maximum connections of probes. A probe is one request.
const PROBE_LIMITS: Limits = Limits { total: 64, per_peer: 16 };
/// Maximum requests of a connection of probes.
const MAX_PROBE_STREAMS: u32 = 16;
/// HTTP/2 pings on connections of probes: interval, and timeout of the response.
const PROBE_KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Options of a [`Server`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where the resources come from.
    pub resources: ResourceSource,
    /// The InferencePools to pick for.
    pub pools: PoolScope,
    /// Addresses of the ext_proc service.
    pub grpc_listen: Vec<SocketAddr>,
    /// Certificate of the ext_proc service. With client CAs, gateways must present a certificate.
    pub tls: Option<Arc<Identity>>,
    /// Address of the gRPC health service.
    pub health_listen: SocketAddr,
    /// Address of the HTTP pages.
    pub http_listen: SocketAddr,
    /// Options of the picker.
    pub picker: PickerOptions,
    /// Maximum size of a message from a gateway.
    pub max_message_bytes: usize,
    /// Maximum concurrent requests of all gateways.
    pub max_streams: u32,
    /// Headers of clients that the picker obeys.
    pub obeyed: ObeyedHeaders,
    /// Time that requests in flight have to finish after shutdown began.
    pub drain_timeout: Duration,
}

/// A running endpoint picker. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Server {
    /// Address of the ext_proc service, the first one.
    pub grpc_address: SocketAddr,
    /// All addresses of the ext_proc service.
    pub grpc_addresses: Vec<SocketAddr>,
    /// Address of the gRPC health service.
    pub health_address: SocketAddr,
    /// Address of the HTTP pages.
    pub http_address: SocketAddr,
    pools: Arc<Pools>,
    _resources: Provider,
    /// Cancelled when shutdown begins: not ready, no new connections.
    draining: CancellationToken,
    ext_proc: JoinSet<()>,
    _background: JoinSet<()>,
    drain_timeout: Duration,
}

impl Server {
    /// Starts the servers. Returns when all ports listen and, for a folder, the resources are loaded. Resources of a
    /// cluster may arrive later; the server is not ready until then.
    ///
    /// # Errors
    ///
    /// A port, the resources or an option cannot be used.
    pub async fn start(options: ServerOptions) -> Result<Self, Error> {
        let mut grpc = Vec::new();
        for address in &options.grpc_listen {
            grpc.push(listen("ext_proc", *address).await?);
        }
        let grpc_addresses: Vec<SocketAddr> = grpc.iter().map(|(_, address)| *address).collect();
        let grpc_address = *grpc_addresses.first().ok_or(Error::NoListener)?;
        let (health, health_address) = listen("health", options.health_listen).await?;
        let (http, http_address) = listen("HTTP", options.http_listen).await?;

        let store = Store::new();
        let interest = interest(&options.pools, &options.picker)?;
        let resources = forebay_resources::start(&options.resources, interest, store.clone()).await?;
        let pools = Arc::new(Pools::start(store.clone(), options.pools.clone(), options.picker)?);
        let draining = CancellationToken::new();

        let (reporter, health_service) = tonic_health::server::health_reporter();
        health::register(&reporter).await;
        let service = ExtProc::new(
            pools.current(),
            pools.unrouted(),
            options.max_streams,
            options.max_message_bytes,
            options.obeyed,
        );
        let mut ext_proc = JoinSet::new();
        let service = Arc::new(service);
        for (listener, address) in grpc {
            let gateways = incoming::accept("ext_proc", listener, options.tls.clone(), GATEWAY_LIMITS);
            ext_proc.spawn(serve_gateways(service.clone(), gateways, address.port(), draining.clone()));
        }

        let mut background = JoinSet::new();
        let probes = incoming::accept("health", health, None, PROBE_LIMITS);
        background.spawn(serve_probes(health_service, probes));
        background.spawn(health::follow(reporter, store.clone(), options.pools.clone(), draining.clone()));
        let admin = Admin { pools: pools.clone(), store, scope: options.pools };
        background.spawn(admin::serve(http, Arc::new(admin)));

        Ok(Self {
            grpc_address,
            grpc_addresses,
            health_address,
            http_address,
            pools,
            _resources: resources,
            draining,
            ext_proc,
            _background: background,
            drain_timeout: options.drain_timeout,
        })
    }

    /// The pools.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The scheduler of a pool. `None` if it is not served.
    pub fn scheduler(&self, pool: &ObjectKey) -> Option<Arc<Scheduler>> {
        self.pools.scheduler(pool)
    }

    /// Shuts down: becomes not ready, accepts no new connections, waits for the requests in flight, and ends the remaining
    /// ones after the drain timeout.
    pub async fn shutdown(mut self) {
        self.draining.cancel();
        let ended = async { while self.ext_proc.join_next().await.is_some() {} };
        if time::timeout(self.drain_timeout, ended).await.is_err() {
            tracing::warn!(timeout = ?self.drain_timeout, "drain timeout reached; ending the remaining requests");
        }
    }
}

async fn listen(purpose: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { purpose, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Accepts and serves connections of gateways on `port`. After `draining`, accepts no more and waits for the requests in flight.
async fn serve_gateways(
    service: Arc<ExtProc>,
    gateways: impl Stream<Item = io::Result<Connection>>,
    port: u16,
    draining: CancellationToken,
) {
    let mut connections = JoinSet::new();
    {
        let mut gateways = pin!(gateways);
        loop {
            let gateway = tokio::select! {
                () = draining.cancelled() => break,
                gateway = gateways.next() => gateway,
                Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let Some(Ok(gateway)) = gateway else { continue };
            if let Err(error) = gateway.keep_alive(KEEP_ALIVE_IDLE) {
                tracing::debug!(%error, "cannot enable TCP keepalive on the connection of a gateway");
            }
            let (service, draining) = (service.clone(), draining.clone());
            connections.spawn(async move {
                if let Err(error) = service.serve(gateway, port, &draining).await {
                    tracing::debug!(%error, "the connection of a gateway failed");
                }
            });
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Serves the health service until it is dropped.
async fn serve_probes(
    service: HealthServer<impl Health>,
    probes: impl Stream<Item = io::Result<Connection>>,
) {
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_PROBE_STREAMS)
        .http2_keepalive_interval(Some(PROBE_KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(PROBE_KEEP_ALIVE.1))
        .add_service(service);
    if let Err(error) = server.serve_with_incoming(probes).await {
        tracing::error!(%error, "the health server failed; gRPC probes are not answered");
    }
}
