//! The telemetry service of an agent in this process: two pods, and a GPU that one of them uses.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use forebay_agent::{
    kernel::boottime_ns,
    publish::{LoadReport, Publisher, TelemetryService},
};
use forebay_agent_ebpf::maps::{Event, EventKind};
use forebay_telemetry::v1::{
    EndpointKey, EngineLoad, Gpu, GpuHealth, Histogram, KernelLoad, Latency, Model, Node,
    telemetry_server::TelemetryServer,
};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    publisher: Arc<Publisher>,
    stop: CancellationToken,
    server: JoinSet<()>,
}

pub(crate) const BUSY: &str = "10.0.0.1:8000";
const IDLE: &str = "10.0.0.2:8000";

impl Agent {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), "node-1").await
    }

    /// An agent with this address, on this node.
    pub(crate) async fn start_at(address: SocketAddr, node: &str) -> Self {
        let publisher = Arc::new(Publisher::new(Node { name: node.into(), ..Node::default() }));
        let pods = [(IDLE, "idle"), (BUSY, "zealous")].map(|(address, pod)| {
            let address: SocketAddr = address.parse().unwrap();
            let key = EndpointKey {
                namespace: "llm-d".into(),
                pod: pod.into(),
                uid: pod.into(),
                ip: address.ip().to_string(),
                port: address.port().into(),
            };
            (address, key)
        });
        publisher.set_endpoints(BTreeMap::from(pods));
        let gpu = Gpu {
            uuid: "GPU-0".into(),
            name: "NVIDIA H100".into(),
            health: GpuHealth::Ok.into(),
            utilization_percent: Some(87),
            ..Gpu::default()
        };
        let users = BTreeMap::from([(BUSY.parse().unwrap(), vec!["GPU-0".to_owned()])]);
        publisher.set_gpus(vec![gpu], &users, Some(1));
        let agent = Self::serve(publisher, address).await;
        agent.measure(BUSY, "zealous", 7);
        agent.measure(IDLE, "idle", 1);
        agent
    }

    /// An agent of this many pods, with as many requests in flight as their number.
    pub(crate) async fn with_pods(count: u16) -> Self {
        let publisher = Arc::new(Publisher::new(Node { name: "node-1".into(), ..Node::default() }));
        let pod = |at: u16| {
            let [high, low] = at.to_be_bytes();
            let address = SocketAddr::from(([10, 1, high, low], 8000));
            let name = format!("qwen-{at:04}");
            let (ip, port) = (address.ip().to_string(), 8000);
            (address, EndpointKey { namespace: "llm-d".into(), pod: name.clone(), uid: name, ip, port })
        };
        let pods: BTreeMap<SocketAddr, EndpointKey> = (0..count).map(pod).collect();
        publisher.set_endpoints(pods.clone());
        let agent = Self::serve(publisher, ([127, 0, 0, 1], 0).into()).await;
        for (at, (address, key)) in (0..).zip(&pods) {
            agent.measure(&address.to_string(), &key.uid, at);
        }
        agent
    }

    async fn serve(publisher: Arc<Publisher>, address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = TelemetryService::new(Arc::clone(&publisher), 1, stop.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(TelemetryServer::new(service));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, publisher, stop, server }
    }

    pub(crate) fn measure(&self, address: &str, uid: &str, in_flight: u64) {
        let ttft = Some(Latency { count: 9, p50_ns: 40_000_000, p99_ns: 90_000_000, ..Latency::default() });
        let load =
            KernelLoad { measured_boottime_ns: boottime_ns(), in_flight, ttft, ..KernelLoad::default() };
        let address = address.parse().unwrap();
        // 40 ms to 90 ms.
        let ttft = Histogram { bounds_ns: vec![40_000_000, 60_000_000, 90_000_001], counts: vec![6, 3] };
        let histograms = [ttft, Histogram::default(), Histogram::default()];
        self.publisher.set_kernel_window(address, uid, LoadReport::Measured(load), &histograms);
        // Values that stay the same are confirmed, not sent again.
        self.publisher.confirm_kernel(boottime_ns());
        let models = vec![Model { id: "qwen".into(), ..Model::default() }];
        let load =
            EngineLoad { measured_boottime_ns: boottime_ns(), running: 2, models, ..EngineLoad::default() };
        self.publisher.set_engine(address, uid, LoadReport::Measured(load));
    }

    /// A request of the busy pod has ended with this status. Returns whether somebody was told.
    pub(crate) fn end_request(&self, status: u16) -> bool {
        let key = EndpointKey {
            namespace: "llm-d".into(),
            pod: "zealous".into(),
            uid: "zealous".into(),
            ip: "10.0.0.1".into(),
            port: 8000,
        };
        let event = Event {
            at_ns: boottime_ns(),
            kind: EventKind::Finished as u32,
            count: 1,
            status,
            ..Event::default()
        };
        self.publisher.requests().publish(&Arc::new(key), &event);
        self.publisher.requests().has_readers()
    }

    /// Ends all streams, and accepts no others.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.server.shutdown().await;
    }
}
