//! The whole process: listeners, servers, and their end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use forebay_agent::{
    resources::{self, ObjectKey, Provider, Source, Store},
    tls::{self, Identity},
};
use tokio::{net::TcpListener, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use crate::{
    Error, Metrics, Picker, PickerOptions, interest,
    observe::{self, Admin},
    protocol::{ExtProc, health, proto::external_processor_server::ExternalProcessorServer},
};

/// A gateway that is gone without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub resources: Source,
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
    ext_proc: JoinSet<Result<(), Error>>,
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
        let resources = resources::start(&options.resources, interest, store.clone()).await?;
        let picker = Picker::start(store.clone(), options.pool.clone(), metrics.clone(), options.picker)?;
        let draining = CancellationToken::new();

        let (reporter, health_service) = tonic_health::server::health_reporter();
        health::register(&reporter).await;
        let max_streams = usize::try_from(options.max_streams).unwrap_or(usize::MAX);
        let service = ExtProc::new(picker.scheduler().clone(), metrics.clone(), max_streams);
        let service =
            ExternalProcessorServer::new(service).max_decoding_message_size(options.max_message_bytes);
        let mut ext_proc = JoinSet::new();
        // A proxy has one stream for each request, all on one connection.
        let router = transport().max_concurrent_streams(options.max_streams).add_service(service);
        ext_proc.spawn(serve(router, "ext_proc", tls::accept(grpc, options.tls), draining.clone()));

        let mut background = JoinSet::new();
        let probes = transport().add_service(health_service);
        background.spawn(async move {
            if let Err(error) =
                serve(probes, "health", tls::accept(health, None), CancellationToken::new()).await
            {
                tracing::error!(%error, "the health server has ended");
            }
        });
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

    /// Returns only when the ext_proc server has failed.
    pub async fn failed(&mut self) -> Error {
        loop {
            match self.ext_proc.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
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

fn transport() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

async fn serve(
    router: Router,
    purpose: &'static str,
    incoming: impl futures_util::Stream<Item = io::Result<tls::Stream>>,
    ending: CancellationToken,
) -> Result<(), Error> {
    router
        .serve_with_incoming_shutdown(incoming, ending.cancelled_owned())
        .await
        .map_err(|source| Error::Serve { purpose, source })
}
