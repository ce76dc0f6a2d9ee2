//! The picker's code as a router of the simulator: its telemetry frames, its picks, its feedback, in virtual time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_epp::{
    Metrics,
    endpoints::Endpoints,
    schedule::{Outcome as PickOutcome, Pick, PickRequest, Pipeline, Prompt, Scheduler},
};
use forebay_resources::{ObjectKey, PoolEndpoint};
use forebay_routing_sim::{
    EndpointId, EngineView, KernelView, Member, Outcome, Request, RequestId, Router, Signals, Time,
    UNIT_TOKENS,
};
use forebay_telemetry::{
    client::Received,
    v1::{Delta, Endpoint, EndpointKey, EngineLoad, Frame, KernelLoad, frame::Body},
};

const AGENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 255, 0, 1)), 9550);
/// The default of the picker: three heartbeats.
const STALE_AFTER: Duration = Duration::from_secs(3);

/// One replica of the picker.
pub struct PickerRouter {
    scheduler: Scheduler,
    base: Instant,
    open: HashMap<RequestId, Pick>,
    /// Incarnations of the pods, so that a restarted pod has a new uid.
    incarnations: HashMap<EndpointId, u32>,
}

impl PickerRouter {
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        let base = Instant::now();
        let endpoints = Arc::new(Endpoints::starting_at(STALE_AFTER, base));
        let pool = ObjectKey::new("default", "pool");
        let scheduler = Scheduler::new(pool, endpoints, pipeline, Metrics::new(), 1);
        Self { scheduler, base, open: HashMap::new(), incarnations: HashMap::new() }
    }

    fn instant(&self, time: Time) -> Instant {
        self.base + Duration::from_nanos(time.as_ns())
    }

    fn uid(&self, endpoint: EndpointId) -> String {
        let incarnation = self.incarnations.get(&endpoint).copied().unwrap_or_default();
        format!("{}-{incarnation}", endpoint.0)
    }
}

fn address(endpoint: EndpointId) -> SocketAddr {
    let [_, high, middle, low] = endpoint.0.to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 8000))
}

fn endpoint(address: SocketAddr) -> EndpointId {
    match address {
        SocketAddr::V4(v4) => {
            let [_, high, middle, low] = v4.ip().octets();
            EndpointId(u32::from_be_bytes([0, high, middle, low]))
        }
        SocketAddr::V6(_) => EndpointId(u32::MAX),
    }
}

impl Router for PickerRouter {
    fn set_members(&mut self, now: Time, members: &[Member]) {
        self.incarnations = members.iter().map(|member| (member.endpoint, member.incarnation)).collect();
        let member = |member: &Member| PoolEndpoint {
            pod: ObjectKey::new("default", format!("pod-{}", member.endpoint.0)),
            uid: self.uid(member.endpoint),
            address: address(member.endpoint),
            node_name: None,
            labels: [].into(),
        };
        let members = members.iter().map(member).collect();
        self.scheduler.endpoints().set_members_at(Some(members), self.instant(now));
    }

    fn observe(&mut self, now: Time, endpoint: EndpointId, signals: &Signals) {
        let report = Endpoint {
            key: Some(EndpointKey {
                ip: address(endpoint).ip().to_string(),
                port: address(endpoint).port().into(),
                uid: self.uid(endpoint),
                ..EndpointKey::default()
            }),
            kernel: signals.kernel.as_ref().map(kernel_load),
            engine: signals.engine.as_ref().map(|engine| engine_load(engine, signals.kernel.as_ref())),
            ..Endpoint::default()
        };
        let delta = Delta { endpoints: vec![report], ..Delta::default() };
        let frame = Frame { epoch: 1, seq: 1, sent_boottime_ns: now.as_ns(), body: Some(Body::Delta(delta)) };
        self.scheduler.endpoints().apply(AGENT, &Received { frame, at: self.instant(now) });
    }

    fn pick(&mut self, now: Time, request: &Request) -> EndpointId {
        let units = (request.prompt_tokens / UNIT_TOKENS) as usize;
        let prompt = Prompt {
            blocks: request.prompt.iter().take(units).map(|block| block.0).collect(),
            bytes: request.prompt_bytes.into(),
            body_bytes: request.prompt_bytes.into(),
            is_streamed: true,
        };
        let question = PickRequest { prompt: Some(&prompt), ..PickRequest::default() };
        let Ok(pick) = self.scheduler.pick_at(&question, self.instant(now)) else {
            // The simulator reports an endpoint that is not a member.
            return EndpointId(u32::MAX);
        };
        let picked = endpoint(pick.addresses()[0]);
        self.open.insert(request.id, pick);
        picked
    }

    fn first_byte(&mut self, now: Time, request: RequestId) {
        if let Some(pick) = self.open.get(&request) {
            pick.first_byte_at(self.instant(now));
        }
    }

    fn end(&mut self, now: Time, request: RequestId, outcome: Outcome) {
        let now = self.instant(now);
        if let Some(pick) = self.open.remove(&request) {
            let outcome = match outcome {
                Outcome::Completed => PickOutcome::Succeeded,
                Outcome::Failed => PickOutcome::Failed,
                Outcome::TimedOut => PickOutcome::Unknown,
            };
            pick.end_at(outcome, now);
        }
    }
}

fn kernel_load(view: &KernelView) -> KernelLoad {
    KernelLoad {
        measured_boottime_ns: view.measured_at.as_ns(),
        in_flight: view.in_flight.into(),
        started: view.started,
        finished: view.finished,
        aborted: view.aborted,
        bytes_in: view.request_bytes,
        // The simulator has no bytes of responses, only when the last one was sent.
        bytes_out: view.last_response_byte_at.map_or(0, |at| at.as_ns()),
        chunks: view.itl.count,
        waiting_request_bytes: view.waiting_request_bytes,
        ..KernelLoad::default()
    }
}

fn engine_load(view: &EngineView, kernel: Option<&KernelView>) -> EngineLoad {
    EngineLoad {
        measured_boottime_ns: view.measured_at.as_ns(),
        running: view.running,
        waiting: view.waiting,
        kv_cache_usage: Some(view.kv_cache_usage),
        prompt_tokens: view.prompt_tokens,
        generation_tokens: view.generation_tokens,
        prefix_cache_queries: view.prefix_cache_queries,
        prefix_cache_hits: view.prefix_cache_hits,
        preemptions: view.preemptions,
        requests_succeeded: kernel.map_or(0, |kernel| kernel.finished),
        block_size_tokens: Some(view.block_size_tokens),
        num_gpu_blocks: Some(view.num_gpu_blocks),
        ..EngineLoad::default()
    }
}
