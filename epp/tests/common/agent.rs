//! A scripted agent over real gRPC.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
};

use forebay_telemetry::v1::{
    Delta, Endpoint, EndpointKey, EngineLoad, Frame, Gpu, GpuHealth, Heartbeat, KernelLoad, Node,
    RequestFrame, Snapshot, WatchRequest, WatchRequestsRequest,
    frame::Body,
    telemetry_server::{Telemetry, TelemetryServer},
};
use futures_util::Stream;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, transport::Server};

use super::DEADLINE;

/// CLOCK_BOOTTIME of the node when a frame is sent.
const SENT_NS: u64 = 1_000_000_000_000;
pub const MS: u64 = 1_000_000;

pub struct FakeAgent {
    pub address: SocketAddr,
    readers: mpsc::UnboundedReceiver<Reader>,
    _server: AbortOnDropHandle<()>,
}

/// The server side of one telemetry stream.
pub struct Reader {
    pub request: WatchRequest,
    frames: mpsc::UnboundedSender<Result<Frame, Status>>,
    epoch: u64,
    seq: u64,
    sent_ns: u64,
}

struct Service {
    readers: mpsc::UnboundedSender<Reader>,
}

#[tonic::async_trait]
impl Telemetry for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let reader = Reader { request: request.into_inner(), frames, epoch: 1, seq: 0, sent_ns: SENT_NS };
        self.readers.send(reader).map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }

    type WatchRequestsStream = Pin<Box<dyn Stream<Item = Result<RequestFrame, Status>> + Send>>;

    async fn watch_requests(
        &self,
        _: Request<WatchRequestsRequest>,
    ) -> Result<Response<Self::WatchRequestsStream>, Status> {
        Err(Status::unimplemented("pickers do not read it"))
    }
}

impl FakeAgent {
    pub async fn start(ip: IpAddr, port: u16) -> Self {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, readers) = mpsc::unbounded_channel();
        let server = Server::builder()
            .add_service(TelemetryServer::new(Service { readers: sender }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, readers, _server: AbortOnDropHandle::new(server) }
    }

    /// The manifest of the agent's pod.
    pub fn manifest(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{ name: agent-{ip}, namespace: forebay, labels: {{ app.kubernetes.io/name: forebay-agent }} }}\n\
             spec: {{ containers: [] }}\n\
             status: {{ podIP: {ip}, conditions: [{{ type: Ready, status: \"True\" }}] }}\n",
            ip = self.address.ip()
        )
    }

    /// Whether no reader has opened a stream that is not taken.
    pub fn no_reader_waits(&mut self) -> bool {
        self.readers.try_recv().is_err()
    }

    /// The next stream that a reader opens.
    pub async fn reader(&mut self) -> Reader {
        tokio::time::timeout(DEADLINE, self.readers.recv()).await.expect("a reader in time").unwrap()
    }
}

impl Reader {
    /// Sends the following frames in another epoch, as after a restart.
    pub fn in_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The clock of the node jumps. Values that are sent afterwards were measured before.
    pub fn jump_clock(&mut self, ns: i64) {
        self.sent_ns = self.sent_ns.saturating_add_signed(ns);
    }

    pub fn skip_a_frame(&mut self) {
        self.seq += 1;
    }

    pub fn snapshot(&mut self, endpoints: Vec<Endpoint>, gpus: Vec<Gpu>) {
        let node = Some(Node { name: "node-a".into(), ..Node::default() });
        self.send(Body::Snapshot(Snapshot { node, endpoints, gpus, ..Snapshot::default() }));
    }

    pub fn delta(&mut self, delta: Delta) {
        self.send(Body::Delta(delta));
    }

    /// Confirms all values.
    pub fn heartbeat(&mut self) {
        self.send(Body::Heartbeat(Heartbeat {
            kernel_measured_boottime_ns: Some(self.sent_ns),
            ..Heartbeat::default()
        }));
    }

    pub fn send(&mut self, body: Body) {
        self.seq += 1;
        let frame =
            Frame { epoch: self.epoch, seq: self.seq, sent_boottime_ns: self.sent_ns, body: Some(body) };
        // Fails only if the picker closed the stream.
        let _ = self.frames.send(Ok(frame));
    }
}

pub fn key(n: u8) -> EndpointKey {
    EndpointKey {
        namespace: "llm-d".into(),
        pod: format!("vllm-{n}"),
        uid: format!("uid-{n}"),
        ip: format!("127.0.1.{n}"),
        port: 8000,
    }
}

/// Kernel counts of pod `n`, measured 1 ms before sending.
pub fn kernel(n: u8, in_flight: u64, started: u64) -> Endpoint {
    let kernel = KernelLoad {
        measured_boottime_ns: SENT_NS - MS,
        in_flight,
        started,
        finished: started.saturating_sub(in_flight),
        ..KernelLoad::default()
    };
    Endpoint { key: Some(key(n)), kernel: Some(kernel), ..Endpoint::default() }
}

/// Engine gauges of pod `n`, measured `age_ns` before sending.
pub fn engine(n: u8, running: u32, waiting: u32, age_ns: u64) -> Endpoint {
    let engine =
        EngineLoad { measured_boottime_ns: SENT_NS - age_ns, running, waiting, ..EngineLoad::default() };
    Endpoint { key: Some(key(n)), engine: Some(engine), ..Endpoint::default() }
}

pub fn gpu(uuid: &str, health: GpuHealth) -> Gpu {
    Gpu { uuid: uuid.into(), health: health.into(), measured_boottime_ns: SENT_NS, ..Gpu::default() }
}
