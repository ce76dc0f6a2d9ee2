//! Picks endpoints: a [`Pipeline`] of filters and scorers compares a snapshot of the pool without a lock, and the
//! reservation compares the best few again under it.

mod attribute;
mod context_length;
mod early;
mod eligible;
mod explain;
pub mod filter;
#[cfg(test)]
mod fixture;
mod headers;
mod parameter;
mod pick;
mod pipeline;
mod pipelines;
mod plugin;
mod prompt;
mod reader;
pub mod score;
mod session;
mod source;
mod subset;
#[cfg(test)]
mod tests;
mod view;

use std::{cell::RefCell, net::SocketAddr, sync::Arc, time::Instant};

use forebay_resources::ObjectKey;
use smallvec::SmallVec;

pub use self::{
    context_length::ContextLengthAware,
    explain::{ExplainedEndpoint, ExplainedLiveness, Explanation, RecentPick, WeightedName},
    headers::Headers,
    pick::{BlockSink, Pick},
    pipeline::{Order, Pipeline},
    pipelines::Pipelines,
    plugin::{Filter, Needs, Scorer},
    prompt::{MAX_BODY_BYTES, Prompt},
    reader::PromptReader,
    session::{SessionAffinity, SessionSettings},
    source::PromptSource,
    subset::Subset,
    view::{AdapterState, View},
};
use self::{
    early::LateMembers, eligible::Eligibility, explain::RecentPicks, pick::Reservation, pipeline::Scratch,
};
pub use crate::endpoints::Outcome;
use crate::{
    Error,
    endpoints::{Endpoints, Snapshot, Work},
    metrics::Metrics,
    signals::Lookup,
};

/// Maximum endpoints of one decision: the best one and fallbacks.
pub const MAX_ENDPOINTS_PER_PICK: usize = 3;

/// Maximum attempts of a pick. Each but the last found an endpoint that left the pool meanwhile.
const MAX_ATTEMPTS: usize = 8;

/// Properties of a request and its gateway that the decision depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// The eligible endpoints. `None`: all endpoints of the pool.
    pub subset: Option<&'a Subset>,
    /// The gateway accepts a list of endpoints, to try the next one when one fails. Otherwise the decision has one endpoint.
    pub takes_list: bool,
    /// The prompt. `None` if it is not known.
    pub prompt: Option<&'a Prompt>,
    /// The model or adapter that the engine runs. `None`: not known.
    pub model: Option<&'a str>,
    /// The request headers. `None`: plugins that read headers see none.
    pub headers: Option<&'a dyn Headers>,
    /// Share of the body whose prompt was read. `None`: not known.
    pub body_share: Option<f64>,
}

impl PickRequest<'_> {
    /// If the model is not known from elsewhere, headers may name it.
    fn with_model_of_headers(&self) -> Self {
        let model = self.model.or_else(|| self.headers.and_then(headers::model));
        Self { model, ..*self }
    }
}

/// Picks endpoints of one pool.
#[derive(Debug)]
pub struct Scheduler {
    pool: ObjectKey,
    endpoints: Arc<Endpoints>,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    endpoints_per_pick: usize,
    late_members: LateMembers,
    recent: RecentPicks,
}

/// Reused memory of a decision.
#[derive(Debug, Default)]
struct Memory {
    lookup: Lookup,
    scratch: Scratch,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Scheduler {
    /// `endpoints_per_pick`: maximum endpoints of a decision for gateways that accept a list. Clamped to the range from 1
    /// to [`MAX_ENDPOINTS_PER_PICK`].
    pub fn new(
        pool: ObjectKey,
        endpoints: Arc<Endpoints>,
        pipeline: Arc<Pipeline>,
        metrics: Arc<Metrics>,
        endpoints_per_pick: usize,
    ) -> Self {
        let endpoints_per_pick = pipeline
            .max_endpoints()
            .unwrap_or(usize::MAX)
            .min(endpoints_per_pick)
            .clamp(1, MAX_ENDPOINTS_PER_PICK);
        Self {
            pool,
            endpoints,
            pipeline,
            metrics,
            endpoints_per_pick,
            late_members: LateMembers::default(),
            recent: RecentPicks::default(),
        }
    }

    /// The pool whose endpoints are picked.
    pub fn pool(&self) -> &ObjectKey {
        &self.pool
    }

    /// The endpoints with their load.
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// What the decision depends on.
    pub fn needs(&self) -> Needs {
        self.pipeline.needs()
    }

    /// Picks endpoints. The request counts as load of the best endpoint until the returned pick is dropped.
    ///
    /// # Errors
    ///
    /// The pool does not exist, or it has no eligible endpoint.
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        let now = Instant::now();
        let explanation = self.recent.is_due(now).then(|| self.explain(request).ok()).flatten();
        let began = if explanation.is_some() { Instant::now() } else { now };
        let picked = self.pick_at(request, began);
        self.metrics.count_pick(picked.as_ref().err().map(Error::code), began.elapsed());
        if let Some(explanation) = explanation {
            self.recent
                .keep(picked.as_ref().map(|it| it.addresses.to_vec()).unwrap_or_default(), explanation);
        }
        picked
    }

    /// Like [`Scheduler::pick`], at another time than now.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::pick`].
    pub fn pick_at(&self, request: &PickRequest<'_>, now: Instant) -> Result<Pick, Error> {
        MEMORY.with_borrow_mut(|memory| {
            for _ in 0..MAX_ATTEMPTS {
                if let Some(pick) = self.pick_with(memory, request, now)? {
                    return Ok(pick);
                }
            }
            Err(Error::NoReadyEndpoint(self.pool.clone()))
        })
    }

    /// The endpoints that a pick would return now. Reserves nothing, and is remembered as no pick. Of endpoints with equal
    /// scores, the next call returns another one.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::pick`].
    pub fn dry_pick(&self, request: &PickRequest<'_>) -> Result<Addresses, Error> {
        MEMORY.with_borrow_mut(|memory| {
            self.compare(memory, request, Instant::now(), |compared| {
                let Compared { view, scratch, .. } = compared;
                self.endpoints.turn(scratch.candidates[0] as usize);
                Ok(self.addresses(view, scratch, request))
            })
        })
    }

    /// `None`: the chosen endpoint left the pool before it was reserved.
    fn pick_with(
        &self,
        memory: &mut Memory,
        request: &PickRequest<'_>,
        now: Instant,
    ) -> Result<Option<Pick>, Error> {
        self.compare(memory, request, now, |compared| {
            let Compared { view, scratch, turn, seen_picks } = compared;
            let reserved = self.endpoints.reserve(
                view.snapshot,
                seen_picks,
                now,
                |has_others| {
                    // They may have changed the best few since these were compared.
                    if has_others && scratch.candidates.len() > 1 && self.pipeline.is_repeatable() {
                        self.pipeline.score(view, scratch);
                        keep_best(scratch, MAX_ENDPOINTS_PER_PICK, turn);
                    }
                    scratch.candidates[0] as usize
                },
                |best| work(view, best as u32),
            );
            let Some((best, id, load_age)) = reserved else { return Ok(None) };
            if let Some(age) = load_age {
                self.metrics.record_load_age(age);
            }
            let addresses = self.addresses(view, scratch, request);
            let Some(address) = addresses.first().copied() else {
                return Err(Error::NoReadyEndpoint(self.pool.clone()));
            };
            self.pipeline.picked(view, best as u32);
            let blocks = request.prompt.map_or(&[][..], |prompt| &prompt.blocks);
            self.endpoints.prefixes().insert(view.snapshot.slot(best), blocks);
            let reservation =
                Reservation { endpoints: self.endpoints.clone(), address, id, outcome: Outcome::Unknown };
            let matched_bytes = view.matched_bytes(best as u32);
            Ok(Some(Pick { addresses, matched_bytes, reservation, pipeline: self.pipeline.clone() }))
        })
    }

    /// Compares the endpoints, and calls `then` with the best few.
    fn compare<T>(
        &self,
        memory: &mut Memory,
        request: &PickRequest<'_>,
        now: Instant,
        then: impl FnOnce(Compared<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Memory { lookup, scratch } = memory;
        let request = &request.with_model_of_headers();
        let snapshot = Arc::clone(&self.endpoints.snapshot());
        let seconds = self.endpoints.seconds(now);
        let models = snapshot.models();
        let eligibility = Eligibility::new(&self.pool, &snapshot, &models, request, seconds)?;
        eligibility.collect(&mut scratch.candidates)?;
        let blocks = request.prompt.map_or(&[][..], |prompt| &prompt.blocks);
        self.endpoints.prefixes().look_up(blocks, lookup);
        let view = View {
            snapshot: &snapshot,
            prompt: request.prompt,
            headers: request.headers,
            model: request.model,
            models: &models,
            lookup,
            now: seconds,
        };
        self.pipeline.filter(&view, &mut scratch.candidates);
        if scratch.candidates.is_empty() {
            return Err(Error::FilteredOut(self.pool.clone()));
        }
        let seen_picks = self.endpoints.picks();
        self.pipeline.score(&view, scratch);
        let turn = self.turn(&snapshot);
        keep_best(scratch, MAX_ENDPOINTS_PER_PICK, turn);
        then(Compared { view: &view, scratch, turn, seen_picks })
    }

    fn turn(&self, snapshot: &Snapshot) -> Turn {
        Turn { cursor: self.endpoints.cursor(), members: snapshot.len() }
    }

    /// The best candidates, as many as the gateway takes.
    fn addresses(&self, view: &View<'_>, scratch: &Scratch, request: &PickRequest<'_>) -> Addresses {
        let limit = if request.takes_list { self.endpoints_per_pick } else { 1 };
        scratch.candidates.iter().take(limit).filter_map(|it| view.address(*it)).collect()
    }
}

/// The endpoints of a decision, best first. Not allocated.
pub type Addresses = SmallVec<[SocketAddr; MAX_ENDPOINTS_PER_PICK]>;

/// Endpoints that were compared.
struct Compared<'a> {
    view: &'a View<'a>,
    /// The best few, best first.
    scratch: &'a mut Scratch,
    turn: Turn,
    /// Picks before they were compared.
    seen_picks: u64,
}

/// Whose turn it is among endpoints with equal scores.
#[derive(Clone, Copy, Debug)]
struct Turn {
    cursor: usize,
    members: usize,
}

impl Turn {
    /// Picks until it is the endpoint's turn.
    fn distance(self, candidate: u32) -> usize {
        let last = self.cursor % self.members;
        (candidate as usize + self.members - last - 1) % self.members
    }
}

/// Keeps the best candidates, best first.
fn keep_best(scratch: &mut Scratch, limit: usize, turn: Turn) {
    let Scratch { candidates, totals, .. } = scratch;
    let mut best = [(f32::NEG_INFINITY, usize::MAX, 0_u32); MAX_ENDPOINTS_PER_PICK];
    let mut kept = 0;
    for (candidate, total) in candidates.iter().zip(&*totals) {
        let is_worse = |other: &(f32, usize, u32)| other.0 < *total;
        let is_equal = |other: &(f32, usize, u32)| other.0 == *total;
        let last = best[limit - 1];
        if kept == limit && !is_worse(&last) && !is_equal(&last) {
            continue;
        }
        let distance = turn.distance(*candidate);
        let follows = |other: &(f32, usize, u32)| is_worse(other) || (is_equal(other) && distance < other.1);
        let rank = best[..kept].iter().position(follows).unwrap_or(kept);
        if rank < limit {
            kept = (kept + 1).min(limit);
            best[rank..kept].rotate_right(1);
            best[rank] = (*total, distance, *candidate);
        }
    }
    candidates.clear();
    candidates.extend(best[..kept].iter().map(|(_, _, candidate)| *candidate));
}

fn work(view: &View<'_>, candidate: u32) -> Work {
    let Some(prompt) = view.prompt else { return Work::default() };
    let cached_bytes = view.matched_bytes(candidate);
    Work {
        body_bytes: prompt.body_bytes,
        cached_bytes,
        uncached_bytes: prompt.bytes - cached_bytes,
        reports_first_byte: prompt.is_streamed,
    }
}
