//! Every score of a decision, for operators.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Serialize, Serializer};

use super::{PickRequest, Scheduler, Turn, eligible::Eligibility, pipeline::Scratch, view::View};
use crate::{Error, signals::Lookup};

/// Maximum endpoints of an explanation.
const MAX_ENDPOINTS: usize = 32;
/// Minimum time between two decisions that are kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Decisions that are kept.
const KEPT: usize = 32;

/// A decision: what was compared, and what came out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Bytes of the prompt. 0 if it was not read.
    pub prompt_bytes: u64,
    /// Share of the body whose prompt was read. `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_share: Option<f64>,
    /// Names and weights of the scorers.
    pub scorers: Vec<WeightedName>,
    /// Best first, those that may not be picked last.
    pub endpoints: Vec<ExplainedEndpoint>,
    /// Further endpoints of the pool.
    pub more_endpoints: usize,
}

/// A scorer of a profile.
#[derive(Clone, Debug, Serialize)]
pub struct WeightedName {
    /// Name in the configuration.
    pub name: String,
    /// Factor of its scores.
    pub weight: f32,
}

/// An endpoint in a decision.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedEndpoint {
    /// Address of the endpoint.
    pub address: SocketAddr,
    /// Namespace and name of its pod.
    pub pod: String,
    /// Why it may not be picked: a filter of the configuration, or what the picker itself found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_by: Option<String>,
    /// Sum of the weighted scores.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub total: Option<f32>,
    /// Score of each scorer, 0 to 1, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "short_list")]
    pub scores: Vec<f32>,
    /// Bytes of the prompt that it is believed to have in its cache.
    pub cached_bytes: u64,
    /// Requests in flight of all clients, as far as known.
    pub in_flight: f32,
    /// Where `in_flight` comes from: `kernel`, `engine` or `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_source: Option<&'static str>,
    /// What the request would add to the waiting of all (`added-waiting-scorer`).
    #[serde(serialize_with = "short_number")]
    pub added_waiting_seconds: f32,
    /// The agent's verdict on the engine. `None` if it is missing or stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<ExplainedLiveness>,
}

/// The agent's verdict on an engine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedLiveness {
    /// `alive`, `suspect` or `stalled`.
    pub state: &'static str,
    /// Why it is not alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Six digits are enough to compare, and keep the text short.
fn rounded(number: f32) -> f64 {
    (f64::from(number) * 1e6).round() / 1e6
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
fn short_number<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    rounded(*number).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde's interface")]
fn short<S: Serializer>(number: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(rounded).serialize(serializer)
}

fn short_list<S: Serializer>(numbers: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers.iter().map(|number| rounded(*number)))
}

impl Explanation {
    /// Maximum bytes of a document: it travels in a header, and clients read a few KiB of headers.
    pub const MAX_BYTES: usize = 8 << 10;

    /// `excluded_by`: of each endpoint of the view. `scratch`: candidates and their totals; `columns`: scores, one column per scorer; `turn`: order of equal totals.
    pub(super) fn new(
        view: &View<'_>,
        scorers: Vec<WeightedName>,
        mut excluded_by: Vec<Option<String>>,
        scratch: &Scratch,
        columns: &[Vec<f32>],
        turn: Turn,
    ) -> Self {
        let members = excluded_by.len();
        let mut endpoints: Vec<ExplainedEndpoint> = Vec::with_capacity(members.min(MAX_ENDPOINTS));
        let candidates = scratch.candidates.iter().zip(&scratch.totals).enumerate();
        let mut ranked: Vec<(u32, Option<usize>, f32)> =
            candidates.map(|(row, (candidate, total))| (*candidate, Some(row), *total)).collect();
        ranked.sort_by(|a, b| b.2.total_cmp(&a.2).then(turn.distance(a.0).cmp(&turn.distance(b.0))));
        let excluded = (0..members).filter(|index| excluded_by[*index].is_some());
        ranked.extend(excluded.map(|index| (index as u32, None, f32::NEG_INFINITY)));
        for (candidate, row, total) in ranked.into_iter().take(MAX_ENDPOINTS) {
            let Some((address, pod)) = view.address(candidate).zip(view.pod(candidate)) else { continue };
            endpoints.push(ExplainedEndpoint {
                address,
                pod: pod.to_string(),
                excluded_by: excluded_by[candidate as usize].take(),
                total: row.map(|_| total),
                scores: row.map(|row| columns.iter().map(|column| column[row]).collect()).unwrap_or_default(),
                cached_bytes: view.matched_bytes(candidate),
                in_flight: view.in_flight(candidate),
                load_source: None,
                added_waiting_seconds: view.added_waiting(candidate),
                liveness: None,
            });
        }
        let more_endpoints = members - endpoints.len();
        Self { prompt_bytes: view.prompt_bytes(), body_share: None, scorers, endpoints, more_endpoints }
    }

    /// The JSON document with the best endpoints, as many as [`Explanation::MAX_BYTES`] allow.
    pub fn into_json(mut self) -> String {
        loop {
            // Fails for no value of these types.
            let json = serde_json::to_string(&self).unwrap_or_default();
            if json.len() <= Self::MAX_BYTES || self.endpoints.pop().is_none() {
                return json;
            }
            self.more_endpoints += 1;
        }
    }
}

impl Scheduler {
    /// What a pick would compare now. Reserves nothing.
    ///
    /// # Errors
    ///
    /// The pool does not exist, or has no endpoints.
    pub fn explain(&self, request: &PickRequest<'_>) -> Result<Explanation, Error> {
        let request = &request.with_model_of_headers();
        let snapshot = Arc::clone(&self.endpoints.snapshot());
        let now = self.endpoints.seconds(Instant::now());
        let mut scratch = Scratch::default();
        let models = snapshot.models();
        let eligibility = Eligibility::new(&self.pool, &snapshot, &models, request, now)?;
        if eligibility.collect(&mut scratch.candidates).is_err() {
            scratch.candidates.clear();
        }
        let mut lookup = Lookup::default();
        let blocks = request.prompt.map_or(&[][..], |prompt| &prompt.blocks);
        self.endpoints.prefixes().look_up(blocks, &mut lookup);
        let view = View {
            snapshot: &snapshot,
            prompt: request.prompt,
            headers: request.headers,
            model: request.model,
            models: &models,
            lookup: &lookup,
            now,
        };
        let reason = |index| Some(eligibility.exclusion(index)?.reason().to_owned());
        let mut excluded_by: Vec<Option<String>> = (0..snapshot.len()).map(reason).collect();
        for candidate in &scratch.candidates {
            excluded_by[*candidate as usize] = None;
        }
        self.pipeline.filter_with_names(&view, &mut scratch.candidates, |candidate, name| {
            excluded_by[candidate as usize] = Some(name.to_owned());
        });
        self.pipeline.score(&view, &mut scratch);
        let columns = self.pipeline.score_columns(&view, &scratch.candidates);
        let turn = self.turn(&snapshot);
        let scorers = self.pipeline.scorers();
        let scorers = scorers.map(|(name, weight)| WeightedName { name: name.to_owned(), weight }).collect();
        let mut explanation = Explanation::new(&view, scorers, excluded_by, &scratch, &columns, turn);
        explanation.body_share = request.body_share;
        self.add_verdicts(&mut explanation.endpoints);
        Ok(explanation)
    }

    fn add_verdicts(&self, explained: &mut [ExplainedEndpoint]) {
        let addresses: Vec<SocketAddr> = explained.iter().map(|it| it.address).collect();
        for (explained, view) in explained.iter_mut().zip(self.endpoints.views_of(&addresses)) {
            let Some(view) = view else { continue };
            explained.load_source = Some(view.source.name());
            explained.liveness = view.liveness.and_then(|liveness| {
                Some(ExplainedLiveness { state: liveness.state_name()?, reason: liveness.reason_name() })
            });
        }
    }

    /// Some recent decisions, at most one per second, newest first.
    pub fn recent_picks(&self) -> Vec<RecentPick> {
        self.recent.all()
    }
}

/// A decision that was kept.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentPick {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Best first. Empty if there was no eligible endpoint.
    pub picked: Vec<SocketAddr>,
    /// The decision.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// One decision per second, the newest ones.
#[derive(Debug, Default)]
pub(super) struct RecentPicks {
    next: Mutex<Option<Instant>>,
    picks: Mutex<VecDeque<RecentPick>>,
}

impl RecentPicks {
    /// Whether the decision at `now` is to be kept. Never waits: of picks at the same time, one asks.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let Ok(mut next) = self.next.try_lock() else { return false };
        let is_due = next.is_none_or(|next| now >= next);
        if is_due {
            *next = Some(now + KEEP_EVERY);
        }
        is_due
    }

    pub(super) fn keep(&self, picked: Vec<SocketAddr>, explanation: Explanation) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let mut picks = self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        picks.truncate(KEPT - 1);
        picks.push_front(RecentPick { time_ms, picked, explanation });
    }

    /// Newest first.
    pub(super) fn all(&self) -> Vec<RecentPick> {
        self.picks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
