use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_epp::schedule::{PickRequest, Scheduler, Subset};
use forebay_grpc::names::DESTINATION_ENDPOINT_SUBSET;
use forebay_grpc::proto::BodySendMode;
use http::{HeaderMap, request};

use super::error::{Error, PickerFault};
use super::exchange::{Outcome, ResponseInterest, ask};
use super::half_closed::HalfClosedStreams;
use super::message::{request_headers, subset_hint};
use super::peers::Peers;
use super::session::{Session, Stream};
use super::transport::Transport;
use crate::hold::HeldBody;
use crate::observe::{Metrics, PickResult, RetryReason};
use forebay_routing::{FailureMode, PickerAddresses, Pool};

/// Endpoints that are tried when a pool fails open.
const RANDOM_ENDPOINTS: usize = 3;

/// The endpoints to which a request is restricted (`x-gateway-destination-endpoint-subset`).
#[derive(Debug)]
pub(crate) struct SubsetHint {
    subset: Subset,
    /// The value of the header: `ip:port[,ip:port…]`.
    text: String,
}

impl SubsetHint {
    /// Removes the hint from a request's headers. A hint that cannot be parsed matches no endpoint.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        if !headers.contains_key(DESTINATION_ENDPOINT_SUBSET) {
            return None;
        }
        let values: Vec<&str> = headers
            .get_all(DESTINATION_ENDPOINT_SUBSET)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let hint = Self { subset: Subset::parse(values.iter().copied()), text: values.join(",") };
        headers.remove(DESTINATION_ENDPOINT_SUBSET);
        Some(hint)
    }
}

/// Chooses endpoints of pools.
#[derive(Debug)]
pub(crate) struct Picker {
    peers: Peers,
    half_closed: HalfClosedStreams,
    metrics: Arc<Metrics>,
    timeout: Duration,
    response_bodies: ResponseBodies,
}

/// Whether response bodies are relayed through endpoint pickers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResponseBodies {
    /// Relay response bodies unless the picker skips them (`mode_override`).
    Auto,
    /// Never send response bodies to pickers.
    Never,
}

/// Options for pickers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickerLimits {
    /// Maximum wait for a reply.
    pub(crate) picker_timeout: Duration,
    pub(crate) response_bodies: ResponseBodies,
}

/// Endpoints to try, best first: at least one, all of them ready members of the pool.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) session: Option<Session>,
    pub(crate) chosen_by: ChosenBy,
}

/// What chose the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    InProcess,
    /// A replica of the endpoint picker.
    Picker(SocketAddr),
    /// A random choice: for a Service, or a pool that fails open.
    Random,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in process"),
            Self::Picker(address) => address.fmt(f),
            Self::Random => f.write_str("random"),
        }
    }
}

impl Picker {
    /// `workers`: number of threads that serve requests.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        transport: Transport,
        workers: usize,
        limits: PickerLimits,
    ) -> Self {
        Self {
            peers: Peers::new(transport, workers),
            half_closed: HalfClosedStreams::new(workers),
            metrics,
            timeout: limits.picker_timeout,
            response_bodies: limits.response_bodies,
        }
    }

    /// Streams that wait for the picker to end its side.
    pub(crate) fn half_closed(&self) -> &HalfClosedStreams {
        &self.half_closed
    }

    /// Sets the addresses of all picker replicas.
    pub(crate) fn set_addresses(&self, addresses: &HashSet<(SocketAddr, Arc<str>)>) {
        self.peers.set(addresses);
    }

    /// Asks the pool's endpoint picker. Reads as much of the body as the picker needs, and lets it change headers and
    /// body. `hint` restricts the endpoints.
    pub(crate) async fn ask(
        &self,
        pool: &Pool,
        picker: &PickerAddresses,
        head: &mut request::Parts,
        host: &str,
        body: &mut HeldBody,
        hint: Option<&SubsetHint>,
    ) -> Result<Decision, Error> {
        let is_allowed = |endpoint: &SocketAddr| hint.is_none_or(|hint| hint.subset.contains(*endpoint));
        if !pool.endpoints().iter().any(is_allowed) {
            self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
            return Err(Error::NoReadyEndpoint);
        }
        match self.ask_replicas(picker, head, host, body, hint).await {
            Err(error) => {
                if matches!(error, Error::Rejected(_)) {
                    self.metrics.picked(&pool.label, PickResult::Rejected);
                }
                Err(error)
            }
            Ok(Ok(mut decision)) => {
                decision.endpoints.retain(is_allowed);
                self.keep_ready(pool, decision)
            }
            Ok(Err(fault)) => match picker.failure_mode {
                FailureMode::FailOpen => {
                    tracing::info!(pool = &*pool.label, %fault, "endpoint picker failed; the pool fails open: using random endpoints");
                    self.metrics.picked(&pool.label, PickResult::FailedOpen);
                    let mut endpoints = pool.random_endpoints(pool.endpoints().len());
                    endpoints.retain(is_allowed);
                    endpoints.truncate(RANDOM_ENDPOINTS);
                    Ok(Decision { endpoints, session: None, chosen_by: ChosenBy::Random })
                }
                FailureMode::FailClose => {
                    self.metrics.picked(&pool.label, PickResult::FailedClosed);
                    Err(Error::Unavailable(fault))
                }
            },
        }
    }

    /// Schedules in this process. `scheduler` has the same endpoints as `pool`.
    pub(crate) fn schedule(
        &self,
        pool: &Pool,
        scheduler: &Scheduler,
        hint: Option<&SubsetHint>,
    ) -> Result<Decision, Error> {
        match scheduler.pick(&PickRequest { subset: hint.map(|hint| &hint.subset), takes_list: true }) {
            Ok(pick) => {
                self.metrics.picked(&pool.label, PickResult::Picked);
                let endpoints = pick.addresses().to_vec();
                let session = Some(Session::InProcess(pick));
                Ok(Decision { endpoints, session, chosen_by: ChosenBy::InProcess })
            }
            Err(error) => {
                self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
                Err(Error::Unschedulable(error))
            }
        }
    }

    async fn ask_replicas(
        &self,
        picker: &PickerAddresses,
        head: &mut request::Parts,
        host: &str,
        body: &mut HeldBody,
        hint: Option<&SubsetHint>,
    ) -> Result<Result<Decision, PickerFault>, Error> {
        let mut last = PickerFault::NoAddress;
        for address in self.peers.round_robin(&picker.replicas) {
            let peer = self.peers.get(address, &picker.namespace);
            let is_empty = body.is_complete() && body.frames().is_empty();
            let (offered, mode) = match self.response_bodies {
                ResponseBodies::Auto => (ResponseInterest::Body, BodySendMode::FullDuplexStreamed),
                ResponseBodies::Never => (ResponseInterest::Headers, BodySendMode::None),
            };
            let metadata = subset_hint(hint.map(|hint| hint.text.as_str()));
            let first = request_headers(head, host, is_empty, mode, metadata);
            match ask(&peer, &first, &mut head.headers, body, self.timeout, offered).await? {
                Outcome::Decided { endpoints, open, interest } => {
                    let session = open.map(|(requests, replies)| {
                        Session::Stream(Stream {
                            requests,
                            replies,
                            interest,
                            timeout: self.timeout,
                            half_closed: self.half_closed.clone(),
                            metrics: self.metrics.clone(),
                        })
                    });
                    let chosen_by = ChosenBy::Picker(address);
                    return Ok(Ok(Decision { endpoints, session, chosen_by }));
                }
                Outcome::Failed(fault) => return Ok(Err(fault)),
                Outcome::Unreachable { fault, .. } => {
                    tracing::info!(%address, %fault, "cannot reach a replica of the endpoint picker; trying the next one");
                    self.metrics.retried(RetryReason::PickerUnreachable);
                    last = fault;
                }
            }
        }
        Ok(Err(last))
    }

    /// Removes endpoints that are not ready members of the pool.
    fn keep_ready(&self, pool: &Pool, mut decision: Decision) -> Result<Decision, Error> {
        decision.endpoints.retain(|endpoint| pool.has_ready(endpoint));
        if decision.endpoints.is_empty() {
            self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
            return Err(Error::NoReadyEndpoint);
        }
        self.metrics.picked(&pool.label, PickResult::Picked);
        Ok(decision)
    }
}
