//! Scripted agents on sockets. Each reports its pods, then a change of one of them every 100 ms.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use forebay_telemetry::v1::{
    Delta, Endpoint, EndpointKey, EngineLoad, Frame, KernelLoad, Node, RequestFrame, Snapshot, WatchRequest,
    WatchRequestsRequest,
    frame::Body,
    telemetry_server::{Telemetry, TelemetryServer},
};
use futures_util::Stream;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, interval, timeout},
};
use tokio_stream::{
    StreamExt as _,
    wrappers::{IntervalStream, TcpListenerStream},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, transport::Server};

use super::{AGENTS, cluster};

const INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Agents {
    port: u16,
    streams: watch::Sender<usize>,
    _servers: Vec<AbortOnDropHandle<()>>,
}

struct Agent {
    number: usize,
    streams: watch::Sender<usize>,
    /// Of all streams.
    started: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Telemetry for Agent {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.streams.send_modify(|streams| *streams += 1);
        let (number, started, began) = (self.number, self.started.clone(), Instant::now());
        let pods: Vec<(usize, usize)> = cluster::pods_of(number).collect();
        let mut seq = 0_u64;
        let frames = IntervalStream::new(interval(INTERVAL)).map(move |at| {
            let now = 1_000_000_000 + u64::try_from((at - began).as_nanos()).unwrap_or_default();
            let changed = pods[seq as usize % pods.len()];
            let started = started.fetch_add(1, Relaxed) as u64;
            let body = if seq == 0 {
                let endpoints = pods.iter().map(|pod| endpoint(*pod, 0, started, now)).collect();
                let node = Some(Node { name: format!("node-{number}"), ..Node::default() });
                Body::Snapshot(Snapshot { node, endpoints, ..Snapshot::default() })
            } else {
                let endpoints = vec![endpoint(changed, seq % 5, started, now)];
                Body::Delta(Delta { endpoints, ..Delta::default() })
            };
            seq += 1;
            Ok(Frame { epoch: 1, seq, sent_boottime_ns: now, body: Some(body) })
        });
        Ok(Response::new(Box::pin(frames)))
    }

    type WatchRequestsStream = Pin<Box<dyn Stream<Item = Result<RequestFrame, Status>> + Send>>;

    async fn watch_requests(
        &self,
        _: Request<WatchRequestsRequest>,
    ) -> Result<Response<Self::WatchRequestsStream>, Status> {
        Err(Status::unimplemented("pickers do not read it"))
    }
}

fn endpoint((pool, pod): (usize, usize), in_flight: u64, started: u64, now: u64) -> Endpoint {
    let address = cluster::address(pool, pod);
    let key = cluster::pod(pool, pod);
    Endpoint {
        key: Some(EndpointKey {
            namespace: key.namespace,
            uid: key.name.clone(),
            pod: key.name,
            ip: address.ip().to_string(),
            port: address.port().into(),
        }),
        kernel: Some(KernelLoad { measured_boottime_ns: now, in_flight, started, ..KernelLoad::default() }),
        engine: Some(EngineLoad { measured_boottime_ns: now, ..EngineLoad::default() }),
        ..Endpoint::default()
    }
}

impl Agents {
    pub(super) async fn start() -> Result<Self> {
        let streams = watch::Sender::new(0);
        let started = Arc::<AtomicUsize>::default();
        let mut servers = Vec::new();
        let mut port = 0;
        for number in 0..AGENTS {
            let listener = TcpListener::bind((cluster::agent_ip(number), port)).await?;
            port = listener.local_addr()?.port();
            let agent = Agent { number, streams: streams.clone(), started: started.clone() };
            let server = Server::builder()
                .add_service(TelemetryServer::new(agent))
                .serve_with_incoming(TcpListenerStream::new(listener));
            servers.push(AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = server.await {
                    forebay_bench::report::say(&format!("agent {number}: {error}"));
                }
            })));
        }
        Ok(Self { port, streams, _servers: servers })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Streams that were opened so far.
    pub(super) fn streams(&self) -> usize {
        *self.streams.borrow()
    }

    pub(super) async fn until_streams(&self, count: usize, limit: Duration) -> Result<()> {
        let mut streams = self.streams.subscribe();
        let reached = timeout(limit, streams.wait_for(|streams| *streams >= count)).await;
        ensure!(reached.is_ok(), "{} of {count} streams after {limit:?}", self.streams());
        Ok(())
    }
}
