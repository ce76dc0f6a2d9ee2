use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_epp::schedule::{PickRequest, Scheduler, Subset};
use forebay_grpc::names::DESTINATION_ENDPOINT_SUBSET;
use forebay_grpc::proto::BodySendMode;
use http::{HeaderMap, request};

use super::closing::Closing;
use super::exchange::{Outcome, Wants, ask};
use super::message::{request_headers, subset_hint};
use super::peers::Peers;
use super::session::{Session, Stream};
use super::transport::Transport;
use crate::hold::HeldBody;
use crate::observe::{Metrics, PickResult, RetryReason};

use crate::{Error, PickerFault};
use forebay_routing::{FailureMode, PickerAddresses, Pool};

/// Endpoints that are tried when no picker has chosen.
const RANDOM_ENDPOINTS: usize = 3;

/// The endpoints that one request may go to.
#[derive(Debug)]
pub(crate) struct SubsetHint {
    subset: Subset,
    /// As it was said: `ip:port[,ip:port…]`.
    text: String,
}

impl SubsetHint {
    /// Takes the hint out of a request's headers. What cannot be read lets no endpoint through.
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

/// Chooses the endpoint of a pool.
#[derive(Debug)]
pub(crate) struct Picker {
    peers: Peers,
    closing: Closing,
    metrics: Arc<Metrics>,
    patience: Duration,
    response_bodies: ResponseBodies,
}

/// Whether response bodies take the way over pickers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResponseBodies {
    /// Over those that do not say that they want none.
    Auto,
    Never,
}

/// How long is waited, and what pickers are offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickerLimits {
    pub(crate) picker_timeout: Duration,
    pub(crate) response_bodies: ResponseBodies,
}

/// The endpoints to try, best first, all ready members of the pool; at least one.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) session: Option<Session>,
    pub(crate) chosen_by: ChosenBy,
}

/// Who has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    InProcess,
    /// The replica that has answered.
    Picker(SocketAddr),
    /// Nobody: of a Service, or of a pool that fails open.
    Chance,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in process"),
            Self::Picker(address) => address.fmt(f),
            Self::Chance => f.write_str("none, at random"),
        }
    }
}

impl Picker {
    /// `workers`: how many threads ask.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        transport: Transport,
        workers: usize,
        limits: PickerLimits,
    ) -> Self {
        Self {
            peers: Peers::new(transport, workers),
            closing: Closing::new(workers),
            metrics,
            patience: limits.picker_timeout,
            response_bodies: limits.response_bodies,
        }
    }

    /// The streams that are being closed.
    pub(crate) fn closing(&self) -> &Closing {
        &self.closing
    }

    /// From now on these are the addresses of pickers.
    pub(crate) fn set_addresses(&self, addresses: &HashSet<SocketAddr>) {
        self.peers.set(addresses);
    }

    /// Reads as much of the body as the picker needs for its decision, and lets it change headers and body.
    /// `hint`: the endpoints that may be chosen, if not all of the pool may.
    pub(crate) async fn ask(
        &self,
        pool: &Pool,
        picker: &PickerAddresses,
        head: &mut request::Parts,
        host: &str,
        body: &mut HeldBody,
        hint: Option<&SubsetHint>,
    ) -> Result<Decision, Error> {
        let may_get_it = |endpoint: &SocketAddr| hint.is_none_or(|hint| hint.subset.contains(*endpoint));
        if !pool.endpoints().iter().any(may_get_it) {
            self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
            return Err(Error::NoReadyEndpoint);
        }
        match self.ask_replicas(picker, head, host, body, hint).await {
            Err(error) => {
                if matches!(error, Error::PickerRejected(_)) {
                    self.metrics.picked(&pool.label, PickResult::Rejected);
                }
                Err(error)
            }
            Ok(Ok(mut decision)) => {
                decision.endpoints.retain(may_get_it);
                self.keep_ready(pool, decision)
            }
            Ok(Err(fault)) => match picker.failure_mode {
                FailureMode::FailOpen => {
                    tracing::info!(pool = &*pool.label, %fault, "the endpoint picker failed, the pool fails open");
                    self.metrics.picked(&pool.label, PickResult::FailedOpen);
                    let mut endpoints = pool.random_endpoints(pool.endpoints().len());
                    endpoints.retain(may_get_it);
                    endpoints.truncate(RANDOM_ENDPOINTS);
                    Ok(Decision { endpoints, session: None, chosen_by: ChosenBy::Chance })
                }
                FailureMode::FailClose => {
                    self.metrics.picked(&pool.label, PickResult::FailedClosed);
                    Err(Error::PickerUnavailable(fault))
                }
            },
        }
    }

    /// The scheduler knows the ready endpoints from the same resources as the pool does.
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
        for address in self.peers.in_turn(&picker.replicas) {
            let peer = self.peers.get(address);
            let is_empty = body.is_complete() && body.frames().is_empty();
            let (offered, mode) = match self.response_bodies {
                ResponseBodies::Auto => (Wants::Body, BodySendMode::FullDuplexStreamed),
                ResponseBodies::Never => (Wants::Headers, BodySendMode::None),
            };
            let metadata = subset_hint(hint.map(|hint| hint.text.as_str()));
            let first = request_headers(head, host, is_empty, mode, metadata);
            match ask(&peer, &first, &mut head.headers, body, self.patience, offered).await? {
                Outcome::Decided { endpoints, open, wants } => {
                    let session = open.map(|(requests, replies)| {
                        let (patience, closing) = (self.patience, self.closing.clone());
                        let metrics = self.metrics.clone();
                        Session::Stream(Stream::new(requests, replies, wants, patience, closing, metrics))
                    });
                    let chosen_by = ChosenBy::Picker(address);
                    return Ok(Ok(Decision { endpoints, session, chosen_by }));
                }
                Outcome::Failed(fault) => return Ok(Err(fault)),
                Outcome::Unreachable { fault, .. } => {
                    tracing::info!(%address, %fault, "an endpoint picker cannot be reached");
                    self.metrics.retried(RetryReason::PickerUnreachable);
                    last = fault;
                }
            }
        }
        Ok(Err(last))
    }

    /// A pod that is not ready, or not of the pool, gets no request, whoever chose it.
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
