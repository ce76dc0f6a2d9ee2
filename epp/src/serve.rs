//! The whole process: listeners, servers, and their end.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use forebay_grpc::KEEP_ALIVE_IDLE;
use forebay_resources::{ObjectKey, Provider, ResourceSource, Store};
use forebay_service::tls::{self, Identity};
use futures_util::{Stream, StreamExt as _};
use tokio::{net::TcpListener, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    Error, Metrics, Picker, PickerOptions, interest,
    observe::{self, Admin},
    protocol::{ExtProc, health},
};

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub resources: ResourceSource,
    pub pool: ObjectKey,
    pub grpc_listen: SocketAddr,
    /// Of the ext_proc service; with an authority, gateways must show a certificate.
    pub tls: Option<Arc<Identity>>,
    pub health_listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub picker: PickerOptions,
    /// The largest message taken from a gateway.
    pub max_message_bytes: usize,
    /// Requests open at once, over all gateways.
    pub max_streams: u32,
    /// How long open requests may go on after the end was asked for.
    pub drain_timeout: Duration,
}

/// A running endpoint picker. Dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    pub grpc_address: SocketAddr,
    pub health_address: SocketAddr,
    pub http_address: SocketAddr,
    picker: Picker,
    _resources: Provider,
    /// Ends readiness and takes no new requests.
    draining: CancellationToken,
    ext_proc: JoinSet<()>,
    _background: JoinSet<()>,
    drain_timeout: Duration,
}

impl Server {
    /// Returns when all three ports listen and a folder's resources are loaded; those
    /// of a cluster may come later, and until then nothing is ready.
    pub async fn start(options: ServerOptions) -> Result<Self, Error> {
        let (grpc, grpc_address) = listen("ext_proc", options.grpc_listen).await?;
        let (health, health_address) = listen("health", options.health_listen).await?;
        let (http, http_address) = listen("HTTP", options.http_listen).await?;

        let store = Store::new();
        let metrics = Metrics::new();
        let interest = interest(&options.pool, &options.picker)?;
        let resources = forebay_resources::start(&options.resources, interest, store.clone()).await?;
        let picker = Picker::start(store.clone(), options.pool.clone(), metrics.clone(), options.picker)?;
        let draining = CancellationToken::new();

        let (reporter, health_service) = tonic_health::server::health_reporter();
        health::register(&reporter).await;
        let service = ExtProc::new(
            picker.scheduler().clone(),
            metrics.clone(),
            options.max_streams,
            options.max_message_bytes,
        );
        let mut ext_proc = JoinSet::new();
        let gateways = tls::accept(grpc, options.tls);
        ext_proc.spawn(serve_gateways(Arc::new(service), gateways, draining.clone()));

        let mut background = JoinSet::new();
        background.spawn(serve_probes(health_service, tls::accept(health, None)));
        background.spawn(health::follow(reporter, store.clone(), options.pool.clone(), draining.clone()));
        let admin =
            Admin { metrics, endpoints: picker.scheduler().endpoints().clone(), store, pool: options.pool };
        background.spawn(observe::serve(http, Arc::new(admin)));

        Ok(Self {
            grpc_address,
            health_address,
            http_address,
            picker,
            _resources: resources,
            draining,
            ext_proc,
            _background: background,
            drain_timeout: options.drain_timeout,
        })
    }

    pub fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Says "not ready", takes no new connection, lets open requests end, and
    /// cuts what is left after the drain timeout.
    pub async fn shutdown(mut self) {
        self.draining.cancel();
        let ended = async { while self.ext_proc.join_next().await.is_some() {} };
        if time::timeout(self.drain_timeout, ended).await.is_err() {
            tracing::warn!(timeout = ?self.drain_timeout, "requests are still open; ending all the same");
        }
    }
}

async fn listen(purpose: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { purpose, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves gateways until `ending`, and then those that are there until their open requests have ended.
async fn serve_gateways(
    service: Arc<ExtProc>,
    gateways: impl Stream<Item = io::Result<tls::Stream>>,
    ending: CancellationToken,
) {
    let mut connections = JoinSet::new();
    {
        let mut gateways = pin!(gateways);
        loop {
            let gateway = tokio::select! {
                () = ending.cancelled() => break,
                gateway = gateways.next() => gateway,
                Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let Some(Ok(gateway)) = gateway else { continue };
            if let Err(error) = gateway.keep_alive(KEEP_ALIVE_IDLE) {
                tracing::debug!(%error, "a gateway's connection has no keepalive");
            }
            let (service, ending) = (service.clone(), ending.clone());
            connections.spawn(async move {
                if let Err(error) = service.serve(gateway, &ending).await {
                    tracing::debug!(%error, "a gateway's connection ended early");
                }
            });
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Answers the kubelet's probes until it is dropped.
async fn serve_probes(
    service: HealthServer<impl Health>,
    probes: impl Stream<Item = io::Result<tls::Stream>>,
) {
    let server = tonic::transport::Server::builder().add_service(service);
    if let Err(error) = server.serve_with_incoming(probes).await {
        tracing::error!(%error, "the health server has ended");
    }
}
