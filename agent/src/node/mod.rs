//! The daemon: starts all tasks of the agent and stops them at shutdown.

mod config;
mod gpus;
mod interest;
mod liveness;
mod members;
mod owner;
mod requests;

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

use self::requests::RequestCounter;
use crate::{
    discover::{CgroupRoot, local_pods},
    gpu::GpuMonitor,
    kernel::Kernel,
    publish::{Publisher, Readiness, TelemetryService, serve_http},
};
use forebay_resources::Store;
use forebay_service::{incoming, places::Limits, tls::Identity};
use forebay_telemetry::v1::{Node, telemetry_server::TelemetryServer};

/// HTTP/2 keepalive: detects readers that are gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum connections of readers. A reader has one.
const READER_LIMITS: Limits = Limits { total: 512, per_peer: 192 };
/// Maximum streams of a connection.
const MAX_STREAMS: u32 = 16;
/// Maximum request of a reader.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Maximum time for the streams to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The resources cannot be read.
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    /// An address cannot be bound.
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The NVML thread cannot be started.
    #[error("cannot start the NVML thread: {0}")]
    Gpu(io::Error),
    /// The gRPC server failed.
    #[error("gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Runs the agent until `shutdown`. Missing BPF support or a missing GPU driver is reported in telemetry and in the log;
/// the agent continues with the other sources.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let grpc = listen(config.grpc_listen, "grpc-listen").await?;
    let http = listen(config.http_listen, "http-listen").await?;
    let store = Store::new();
    let provider =
        forebay_resources::start(&config.resources, interest(&config.node_name), Arc::clone(&store)).await?;

    let publisher = Arc::new(Publisher::new(Node {
        name: config.node_name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        ..Node::default()
    }));
    let readiness = Arc::new(Readiness::default());
    let gpus = GpuMonitor::start(config.gpus.clone()).map_err(NodeError::Gpu)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_http(
        http,
        Arc::clone(&publisher),
        config.metrics,
        Arc::clone(&readiness),
        shutdown.clone(),
    ));
    // With an empty pod list, the pinned counters of an earlier agent would be removed.
    let served = if shutdown.run_until_cancelled(store.loaded()).await.is_some() {
        start_tasks(&mut tasks, store, &config, &gpus, &publisher, &readiness, &shutdown);
        serve_grpc(grpc, config.tls.clone(), publisher, &shutdown).await
    } else {
        Ok(())
    };
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    drop((provider, gpus));
    Ok(served?)
}

fn start_tasks(
    tasks: &mut JoinSet<()>,
    store: Arc<Store>,
    config: &Config,
    gpus: &GpuMonitor,
    publisher: &Arc<Publisher>,
    readiness: &Arc<Readiness>,
    shutdown: &CancellationToken,
) {
    let (pods_sender, pods) = watch::channel(local_pods(&store.snapshot(), &config.node_name));
    tasks.spawn(members::follow_members(
        store,
        config.node_name.clone(),
        config.scrape,
        Arc::clone(publisher),
        pods_sender,
        shutdown.clone(),
    ));
    tasks.spawn(gpus::publish_gpus(
        gpus.reports(),
        pods.clone(),
        config.proc.clone(),
        Arc::clone(publisher),
        shutdown.clone(),
    ));
    tasks.spawn(liveness::judge_endpoints(Arc::clone(publisher), shutdown.clone()));
    match load_kernel(config) {
        Ok((kernel, events, root)) => {
            let counter = RequestCounter::new(kernel, root, Arc::clone(publisher), Arc::clone(readiness));
            tasks.spawn(counter.run(events, pods, gpus.reports(), shutdown.clone()));
        }
        Err(reason) => {
            tracing::warn!(%reason, "requests are not counted in the kernel; using engine metrics only");
            publisher.set_node(|node| node.kernel_off = Some(reason));
            readiness.set_ready();
        }
    }
}

async fn serve_grpc(
    listener: TcpListener,
    tls: Option<Arc<Identity>>,
    publisher: Arc<Publisher>,
    shutdown: &CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TelemetryServer<TelemetryService>>().await;
    let service = TelemetryService::new(publisher, epoch(), shutdown.clone());
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(MAX_REQUEST_BYTES as u32)
        .initial_connection_window_size(4 * MAX_REQUEST_BYTES as u32)
        .add_service(health_service)
        .add_service(TelemetryServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
        .serve_with_incoming_shutdown(
            incoming::accept("telemetry", listener, tls, READER_LIMITS),
            shutdown.clone().cancelled_owned(),
        );
    tokio::select! {
        served = serving => served,
        // Streams whose readers do not take the goodbye are cut.
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        } => Ok(()),
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Listen { address, flag, source })
}

/// Loads the programs. The error is one line for an operator.
fn load_kernel(config: &Config) -> Result<(Kernel, crate::kernel::Events, CgroupRoot), String> {
    let KernelMode::Auto(options) = &config.kernel else {
        return Err("disabled (--kernel off)".into());
    };
    let root = match &config.cgroup_root {
        Some(path) => CgroupRoot::at(path),
        None => CgroupRoot::find().map_err(|error| error.to_string())?,
    };
    let (kernel, events, unpinned) = Kernel::load(options).map_err(|off| off.to_string())?;
    if let Some(reason) = unpinned {
        tracing::warn!(%reason, "BPF maps are not pinned; counters restart with the agent");
    }
    Ok((kernel, events, root))
}

/// Identifies this run. Unique unless the clock is set back to exactly the nanosecond of an earlier start.
fn epoch() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use forebay_telemetry::v1::{Frame, WatchRequest, telemetry_client::TelemetryClient};
    use tonic::{Code, Status, Streaming, transport::Endpoint};

    use super::*;

    struct Reader {
        address: SocketAddr,
        from: IpAddr,
    }

    impl Reader {
        /// A stream on a connection of its own.
        async fn watch(&self) -> Result<Streaming<Frame>, Status> {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
            let channel = endpoint.local_address(Some(self.from)).connect().await.unwrap();
            let mut frames = TelemetryClient::new(channel).watch(WatchRequest::default()).await?.into_inner();
            frames.message().await?.expect("a snapshot");
            Ok(frames)
        }
    }

    #[tokio::test]
    async fn one_reader_cannot_take_the_streams_of_all_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let publisher = Arc::new(Publisher::new(Node::default()));
        let stop = shutdown.clone();
        let server = tokio::spawn(async move { serve_grpc(listener, None, publisher, &stop).await });
        let greedy = Reader { address, from: Ipv4Addr::LOCALHOST.into() };
        let mut streams = Vec::new();
        let refusal = loop {
            assert!(streams.len() < 256, "no refusal");
            match greedy.watch().await {
                Ok(stream) => streams.push(stream),
                Err(status) => break status,
            }
        };
        assert_eq!((refusal.code(), streams.len()), (Code::ResourceExhausted, 128), "{refusal}");
        let other = Reader { address, from: Ipv4Addr::new(127, 0, 0, 2).into() };
        other.watch().await.expect("a stream of another reader");
        // The share is free again when the stream has ended.
        streams.clear();
        while greedy.watch().await.is_err() {}
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
