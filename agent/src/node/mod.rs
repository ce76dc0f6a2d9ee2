//! The daemon: the parts of a node's agent, started together and ended together.

mod config;
mod counting;
mod gpus;
mod interest;
mod members;
mod owner;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use config::{Config, KernelMode};
pub use interest::{OWNER_RULES, RULES, interest};
pub use owner::Owner;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    discover::{CgroupRoot, local_pods},
    gpu::GpuMonitor,
    kernel::Kernel,
    publish::{Board, Readiness, TelemetryService, serve_http},
};
use forebay_resources::Store;
use forebay_service::tls;
use forebay_telemetry::v1::{Node, telemetry_server::TelemetryServer};

/// A silent reader is asked whether it is there, and given up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the streams may take to end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Listen { address: SocketAddr, flag: &'static str, source: io::Error },
    #[error("cannot start the NVML thread: {0}")]
    Gpu(io::Error),
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Runs until `shutdown`. Without BPF, without a driver, or without pods it runs as
/// well, and says what is off.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let grpc = listen(config.grpc_listen, "grpc-listen").await?;
    let http = listen(config.http_listen, "http-listen").await?;
    let store = Store::new();
    let provider =
        forebay_resources::start(&config.resources, interest(&config.node_name), Arc::clone(&store)).await?;

    let board = Arc::new(Board::new(Node {
        name: config.node_name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        ..Node::default()
    }));
    let readiness = Arc::new(Readiness::default());
    let gpus = GpuMonitor::start(config.gpus.clone()).map_err(NodeError::Gpu)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_http(http, Arc::clone(&board), Arc::clone(&readiness), shutdown.clone()));
    // Without pods the kernel would let go of what an earlier life of this agent has counted.
    if shutdown.run_until_cancelled(store.loaded()).await.is_none() {
        while tasks.join_next().await.is_some() {}
        return Ok(());
    }
    let (pods_sender, pods) = watch::channel(local_pods(&store.snapshot(), &config.node_name));

    tasks.spawn(members::follow(
        store,
        config.node_name.clone(),
        config.scrape,
        Arc::clone(&board),
        pods_sender,
        shutdown.clone(),
    ));
    tasks.spawn(gpus::follow(
        gpus.reports(),
        pods.clone(),
        config.proc.clone(),
        Arc::clone(&board),
        shutdown.clone(),
    ));
    match load_kernel(&config) {
        Ok((kernel, events, root)) => {
            let counting = counting::Counting::new(kernel, root, Arc::clone(&board), Arc::clone(&readiness));
            tasks.spawn(counting.run(events, pods, gpus.reports(), shutdown.clone()));
        }
        Err(reason) => {
            tracing::warn!(%reason, "requests are not counted in the kernel; the scrape of the engines goes on");
            board.set_node(|node| node.kernel_off = Some(reason));
            readiness.set_ready();
        }
    }

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TelemetryServer<TelemetryService>>().await;
    let service = TelemetryService::new(board, epoch(), shutdown.clone());
    let serving = tonic::transport::Server::builder()
        // A reader that vanished must not hold its place for good.
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(TelemetryServer::new(service))
        .serve_with_incoming_shutdown(
            tls::accept(grpc, config.tls.clone()),
            shutdown.clone().cancelled_owned(),
        );
    let served = tokio::select! {
        served = serving => served,
        // Readers that do not take their goodbye are not waited for longer.
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        } => Ok(()),
    };
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    drop((provider, gpus));
    Ok(served?)
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Listen { address, flag, source })
}

/// The programs, or the line that says why not.
fn load_kernel(config: &Config) -> Result<(Kernel, crate::kernel::Events, CgroupRoot), String> {
    let KernelMode::Auto(options) = &config.kernel else {
        return Err("switched off (--kernel off)".into());
    };
    let root = match &config.cgroup_root {
        Some(path) => CgroupRoot::at(path),
        None => CgroupRoot::find().map_err(|error| error.to_string())?,
    };
    let (kernel, events, unpinned) = Kernel::load(options).map_err(|off| off.to_string())?;
    if let Some(reason) = unpinned {
        tracing::warn!(%reason, "BPF maps are not pinned: a restart of the agent starts the counters again");
    }
    Ok((kernel, events, root))
}

/// Differs from that of every earlier life on this node, as long as its clock is
/// not set back between two starts to the same nanosecond.
fn epoch() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}
