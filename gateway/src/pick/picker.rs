use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_epp::schedule::{Explanation, PickRequest, PromptReader, PromptSource as _, Scheduler};
use http::request;

use super::error::{Error, PickerFault};
use super::exchange::{Outcome, ask};
use super::half_closed::HalfClosedStreams;
use super::in_process::{InProcessPick, PromptRest};
use super::message::subset_hint;
use super::peers::{Peer, Peers};
use super::question::{Question, ResponseInterest};
use super::replica_health::Admission;
use super::session::{Session, Stream};
use super::transport::Transport;
use super::wanted::{Joined, Wanted};
use crate::hold::HeldBody;
use crate::observe::{LogLimit, Metrics, PickResult, RetryReason};
use forebay_routing::{FailureMode, PickerAddresses, Pool};

/// Endpoints that are tried when a pool fails open.
const RANDOM_ENDPOINTS: usize = 3;

/// Chooses endpoints of pools.
#[derive(Debug)]
pub(crate) struct Picker {
    peers: Peers,
    half_closed: HalfClosedStreams,
    metrics: Arc<Metrics>,
    /// Messages about pools that fail open.
    log_limit: LogLimit<Arc<str>>,
    timeout: Duration,
    response_bodies: ResponseBodies,
}

/// The replicas that were asked for one request.
struct Attempts {
    /// What is left of the picker timeout.
    left: Duration,
    /// Why the last replica made no decision.
    fault: PickerFault,
    /// The current attempt is a probe.
    is_probe: bool,
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
    /// Maximum wait for the replicas of a picker until one of them decides, and for each later reply.
    pub(crate) picker_timeout: Duration,
    pub(crate) response_bodies: ResponseBodies,
}

/// Endpoints to try, best first: at least one, all of them ready members of the pool.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) session: Option<Session>,
    pub(crate) chosen_by: ChosenBy,
    /// Share of the body whose prompt was read for the decision. `None` if it is not known.
    pub(crate) body_share: Option<f64>,
}

impl Decision {
    pub(crate) fn random(endpoints: Vec<SocketAddr>) -> Self {
        Self { endpoints, session: None, chosen_by: ChosenBy::Random, body_share: None }
    }
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
            log_limit: LogLimit::default(),
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
    /// body.
    pub(crate) async fn ask(
        &self,
        pool: &Pool,
        picker: &PickerAddresses,
        head: &mut request::Parts,
        host: &str,
        body: &mut HeldBody,
        wanted: &mut Wanted<'_>,
    ) -> Result<Decision, Error> {
        let (hint, joined) = (wanted.hint, wanted.joined);
        let is_allowed = |endpoint: &SocketAddr| hint.is_none_or(|hint| hint.subset.contains(*endpoint));
        if !pool.endpoints().iter().any(is_allowed) {
            self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
            return Err(Error::NoReadyEndpoint);
        }
        let offered = match self.response_bodies {
            ResponseBodies::Auto => ResponseInterest::Body,
            ResponseBodies::Never => ResponseInterest::Headers,
        };
        let metadata = subset_hint(hint.map(|hint| hint.text.as_str()));
        let mut question = Question { head, host, pool: &pool.label, body, metadata, offered, wanted };
        match self.ask_replicas(picker, &mut question).await {
            Err(error) => {
                if matches!(error, Error::Rejected(_)) {
                    self.metrics.picked(&pool.label, PickResult::Rejected);
                }
                Err(error)
            }
            Ok(Ok(mut decision)) => {
                decision.endpoints.retain(is_allowed);
                self.keep_ready(pool, decision, joined)
            }
            Ok(Err(fault)) => match picker.failure_mode {
                FailureMode::FailOpen => {
                    if let Some(skipped) = self.log_limit.admit(&pool.label) {
                        tracing::info!(pool = &*pool.label, %fault, skipped, "endpoint picker failed; the pool fails open: using random endpoints");
                    }
                    self.metrics.picked(&pool.label, PickResult::FailedOpen);
                    let mut endpoints = pool.random_endpoints(pool.endpoints().len());
                    endpoints.retain(is_allowed);
                    endpoints.truncate(RANDOM_ENDPOINTS);
                    Ok(Decision::random(endpoints))
                }
                FailureMode::FailClose => {
                    self.metrics.picked(&pool.label, PickResult::FailedClosed);
                    Err(Error::Unavailable(fault))
                }
            },
        }
    }

    /// Schedules in this process. `scheduler` has the same endpoints as `pool`. `prompt`: what was read of the body's prompt.
    pub(crate) fn schedule(
        &self,
        pool: &Pool,
        scheduler: &Arc<Scheduler>,
        wanted: &mut Wanted<'_>,
        body: &mut HeldBody,
        prompt: Option<Box<PromptReader>>,
    ) -> Result<Decision, Error> {
        let subset = wanted.hint.map(|hint| &hint.subset);
        let request = PickRequest { subset, takes_list: true, ..PickRequest::default() };
        if wanted.explains {
            let explained = match &prompt {
                Some(prompt) => scheduler.explain_for(&**prompt, request),
                None => scheduler.explain(&request),
            };
            wanted.explanation = explained.ok().map(Explanation::into_json);
        }
        if wanted.reserves {
            let reserved = match &prompt {
                Some(prompt) => scheduler.dry_pick_for(&**prompt, request),
                None => scheduler.dry_pick(&request),
            };
            let endpoints = reserved.map_err(Error::Unschedulable)?.into_vec();
            let body_share = prompt.as_ref().and_then(|prompt| prompt.read_share());
            return Ok(Decision { endpoints, session: None, chosen_by: ChosenBy::InProcess, body_share });
        }
        let picked = match &prompt {
            Some(prompt) => scheduler.pick_for(&**prompt, request),
            None => scheduler.pick(&request),
        };
        match picked {
            Ok(pick) => {
                let body_share = prompt.as_ref().and_then(|prompt| prompt.read_share());
                if let Some(reader) = prompt.filter(|prompt| !prompt.is_ended()) {
                    let (scheduler, sink) = (scheduler.clone(), pick.block_sink());
                    body.observe_rest(Box::new(PromptRest { scheduler, reader, sink }));
                }
                self.metrics.picked(&pool.label, PickResult::Picked);
                let endpoints = pick.addresses().to_vec();
                let session = Some(Session::InProcess(InProcessPick::new(pick)));
                Ok(Decision { endpoints, session, chosen_by: ChosenBy::InProcess, body_share })
            }
            Err(error) => {
                self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
                Err(Error::Unschedulable(error))
            }
        }
    }

    /// Asks one replica after the other, until one makes a decision or the picker timeout has passed. Replicas that did
    /// not reply to earlier requests come last.
    async fn ask_replicas(
        &self,
        picker: &PickerAddresses,
        question: &mut Question<'_, '_>,
    ) -> Result<Result<Decision, PickerFault>, Error> {
        let mut attempts = Attempts { left: self.timeout, fault: PickerFault::NoAddress, is_probe: false };
        let has_one = picker.replicas.len() == 1;
        let mut responsive =
            if has_one { 1 } else { self.peers.count_responsive(&picker.replicas, &picker.namespace) };
        let mut avoided = Vec::new();
        for address in self.peers.round_robin(&picker.replicas) {
            let peer = self.peers.get(address, &picker.namespace);
            let admission = peer.health().admit();
            let limit = match admission {
                Admission::Normal => {
                    responsive = responsive.saturating_sub(1);
                    if responsive > 0 { attempts.left / 2 } else { attempts.left }
                }
                Admission::Probe if !has_one => attempts.left / 4,
                Admission::Probe => attempts.left,
                Admission::Avoid => {
                    avoided.push(peer);
                    continue;
                }
            };
            attempts.is_probe = admission == Admission::Probe;
            if let Some(decided) = self.ask_replica(&peer, question, limit, &mut attempts).await? {
                return Ok(decided);
            }
        }
        attempts.is_probe = false;
        let mut left = avoided.len();
        for peer in avoided {
            left -= 1;
            let limit = if left > 0 { attempts.left / 2 } else { attempts.left };
            if let Some(decided) = self.ask_replica(&peer, question, limit, &mut attempts).await? {
                return Ok(decided);
            }
        }
        Ok(Err(attempts.fault))
    }

    /// Asks one replica for at most `limit`. `None` if another one may be asked.
    async fn ask_replica(
        &self,
        peer: &Peer,
        question: &mut Question<'_, '_>,
        limit: Duration,
        attempts: &mut Attempts,
    ) -> Result<Option<Result<Decision, PickerFault>>, Error> {
        if limit.is_zero() {
            return Ok(None);
        }
        let address = peer.address();
        let (outcome, left) = ask(peer, question, limit).await?;
        attempts.left = attempts.left.saturating_sub(limit.saturating_sub(left));
        match outcome {
            Outcome::Decided { endpoints, open, interest, prompt } => {
                let body_share = prompt.as_ref().and_then(|prompt| prompt.read_share());
                let rest = prompt.and_then(|prompt| prompt.read_rest(question.body));
                let session = open.map(|(requests, replies)| {
                    Session::Stream(Stream {
                        requests,
                        replies,
                        interest,
                        rest,
                        timeout: self.timeout,
                        half_closed: self.half_closed.clone(),
                        metrics: self.metrics.clone(),
                    })
                });
                let chosen_by = ChosenBy::Picker(address);
                Ok(Some(Ok(Decision { endpoints, session, chosen_by, body_share })))
            }
            Outcome::Failed(fault) => Ok(Some(Err(fault))),
            Outcome::Unreachable { fault, .. } => {
                let health = peer.health();
                let failure = if attempts.is_probe { health.probe_failed() } else { health.failed() };
                if let Some(avoided_for) = failure {
                    tracing::info!(%address, %fault, ?avoided_for, "a replica of the endpoint picker cannot be reached or does not reply; asking the next one");
                }
                self.metrics.retried(RetryReason::PickerUnreachable);
                attempts.fault = fault;
                Ok(None)
            }
        }
    }

    /// Removes endpoints that are not ready members of the pool.
    fn keep_ready(
        &self,
        pool: &Pool,
        mut decision: Decision,
        joined: Option<Joined<'_>>,
    ) -> Result<Decision, Error> {
        let has_joined = |endpoint: &SocketAddr| joined.is_some_and(|joined| joined.has(endpoint));
        decision.endpoints.retain(|endpoint| pool.has_ready(endpoint) || has_joined(endpoint));
        if decision.endpoints.is_empty() {
            self.metrics.picked(&pool.label, PickResult::NoReadyEndpoint);
            return Err(Error::NoReadyEndpoint);
        }
        self.metrics.picked(&pool.label, PickResult::Picked);
        Ok(decision)
    }
}
