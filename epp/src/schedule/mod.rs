//! Picks endpoints: a [`Pipeline`] of filters and scorers compares a snapshot of the pool without a lock, and the
//! reservation compares the best few again under it.

mod attribute;
mod context_length;
mod early;
pub mod filter;
#[cfg(test)]
mod fixture;
mod headers;
mod parameter;
mod pipeline;
mod plugin;
mod prompt;
mod reader;
pub mod score;
mod session;
mod subset;
#[cfg(test)]
mod tests;
mod view;

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use forebay_resources::ObjectKey;

pub use self::{
    context_length::ContextLengthAware,
    headers::Headers,
    pipeline::{Order, Pipeline},
    plugin::{Filter, Needs, Scorer},
    prompt::Prompt,
    reader::PromptReader,
    session::{SessionAffinity, SessionSettings},
    subset::Subset,
    view::View,
};
use self::{early::LateMembers, pipeline::Scratch};
pub use crate::endpoints::Outcome;
use crate::{
    Error,
    endpoints::{Endpoints, PickId, Snapshot, Work},
    metrics::Metrics,
    signals::Lookup,
};

/// Maximum endpoints of one decision: the best one and fallbacks.
pub const MAX_ENDPOINTS_PER_PICK: usize = 3;

/// Properties of a request and its gateway that the decision depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// The eligible endpoints. `None`: all endpoints of the pool.
    pub subset: Option<&'a Subset>,
    /// The gateway accepts a list of endpoints, to try the next one when one fails. Otherwise the decision has one endpoint.
    pub takes_list: bool,
    /// The prompt. `None` if it is not known.
    pub prompt: Option<&'a Prompt>,
    /// The request headers. `None`: plugins that read headers see none.
    pub headers: Option<&'a dyn Headers>,
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
        Self { pool, endpoints, pipeline, metrics, endpoints_per_pick, late_members: LateMembers::default() }
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
        let picked = self.pick_at(request, now);
        self.metrics.count_pick(picked.as_ref().err().map(Error::code), now.elapsed());
        picked
    }

    /// Like [`Scheduler::pick`], at another time than now.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::pick`].
    pub fn pick_at(&self, request: &PickRequest<'_>, now: Instant) -> Result<Pick, Error> {
        MEMORY.with_borrow_mut(|memory| self.pick_with(memory, request, now))
    }

    fn pick_with(&self, memory: &mut Memory, request: &PickRequest<'_>, now: Instant) -> Result<Pick, Error> {
        let Memory { lookup, scratch } = memory;
        let snapshot = Arc::clone(&self.endpoints.snapshot());
        let seconds = self.endpoints.seconds(now);
        self.collect_eligible(&snapshot, request, seconds, &mut scratch.candidates)?;
        let blocks = request.prompt.map_or(&[][..], |prompt| &prompt.blocks);
        self.endpoints.prefixes().look_up(blocks.iter().copied(), lookup);
        let view = View {
            snapshot: &snapshot,
            prompt: request.prompt,
            headers: request.headers,
            lookup,
            now: seconds,
        };
        self.pipeline.filter(&view, &mut scratch.candidates);
        if scratch.candidates.is_empty() {
            return Err(Error::FilteredOut(self.pool.clone()));
        }
        self.pipeline.score(&view, scratch);
        let turn = Turn { cursor: self.endpoints.cursor(), members: snapshot.len() };
        keep_best(scratch, MAX_ENDPOINTS_PER_PICK, turn);
        let mut addresses = Vec::with_capacity(scratch.candidates.len());
        let reserved = self.endpoints.reserve(
            &snapshot,
            now,
            || {
                // Other picks may have changed the best few since they were compared.
                if scratch.candidates.len() > 1 && self.pipeline.is_repeatable() {
                    self.pipeline.score(&view, scratch);
                    keep_best(scratch, MAX_ENDPOINTS_PER_PICK, turn);
                }
                scratch.candidates[0] as usize
            },
            |best| work(&view, best as u32),
        );
        let Some((best, id, load_age)) = reserved else {
            return Err(Error::NoReadyEndpoint(self.pool.clone()));
        };
        if let Some(age) = load_age {
            self.metrics.record_load_age(age);
        }
        let limit = if request.takes_list { self.endpoints_per_pick } else { 1 };
        addresses
            .extend(scratch.candidates.iter().take(limit).filter_map(|it| snapshot.address(*it as usize)));
        let Some(address) = addresses.first().copied() else {
            return Err(Error::NoReadyEndpoint(self.pool.clone()));
        };
        self.pipeline.picked(&view, best as u32);
        self.endpoints.prefixes().insert(snapshot.slot(best), blocks);
        let reservation =
            Reservation { endpoints: self.endpoints.clone(), address, id, outcome: Outcome::Unknown };
        let matched_bytes = view.matched_bytes(best as u32);
        Ok(Pick { addresses, matched_bytes, reservation, pipeline: self.pipeline.clone() })
    }

    /// The endpoints that may be picked. Those whose requests fail are left out, unless all fail.
    fn collect_eligible(
        &self,
        snapshot: &Snapshot,
        request: &PickRequest<'_>,
        now: f64,
        candidates: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if !snapshot.pool_exists() {
            return Err(Error::NoPool(self.pool.clone()));
        }
        if snapshot.len() == 0 {
            return Err(Error::NoReadyEndpoint(self.pool.clone()));
        }
        let is_allowed = |index: usize| {
            let allows = |subset: &Subset| snapshot.address(index).is_some_and(|it| subset.contains(it));
            request.subset.is_none_or(allows)
        };
        let mut collect = |is_eligible: &dyn Fn(usize) -> bool| {
            candidates.clear();
            let indexes = (0..snapshot.len()).filter(|index| is_eligible(*index));
            candidates.extend(indexes.map(|index| index as u32));
            !candidates.is_empty()
        };
        let has_gpus = |index: usize| now > snapshot.cell(index).lost_until();
        let works = |index: usize| now >= snapshot.cell(index).failing_until();
        if collect(&|index| is_allowed(index) && has_gpus(index) && works(index))
            || collect(&|index| is_allowed(index) && has_gpus(index))
        {
            Ok(())
        } else if collect(&is_allowed) {
            Err(Error::GpusLost(self.pool.clone()))
        } else {
            Err(Error::OutsideSubset(self.pool.clone()))
        }
    }
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

/// A decision. The request counts as load of its endpoint until the pick is dropped.
#[derive(Debug)]
pub struct Pick {
    /// Never empty.
    addresses: Vec<SocketAddr>,
    matched_bytes: u64,
    reservation: Reservation,
    pipeline: Arc<Pipeline>,
}

impl Pick {
    /// The picked endpoints, best first. Never empty.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Bytes of the prompt that the best endpoint is believed to have in its cache.
    pub fn matched_bytes(&self) -> u64 {
        self.matched_bytes
    }

    /// The endpoints in the format of the Endpoint Picker Protocol: `ip:port[,ip:port…]`.
    pub fn destination(&self) -> String {
        let mut text = String::with_capacity(self.addresses.len() * 22);
        for (index, address) in self.addresses.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{address}", if index == 0 { "" } else { "," });
        }
        text
    }

    /// Headers for the response to the client: the tokens of sessions. They name the endpoint that serves the request.
    pub fn response_headers(&self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for name in self.pipeline.token_headers() {
            let Reservation { endpoints, address, .. } = &self.reservation;
            let snapshot = endpoints.snapshot();
            if let Some(endpoint) = snapshot.position(*address).and_then(|index| snapshot.endpoint(index)) {
                headers.push((name.to_owned(), session::token(&endpoint.pod)));
            }
        }
        headers
    }

    /// The endpoint at `address` served the request, for example after a retry. The request counts as its load from now on.
    pub fn served_by(&mut self, address: SocketAddr) {
        self.reservation.move_to(address);
    }

    /// The first byte of the response's content is there.
    pub fn first_byte(&self) {
        self.first_byte_at(Instant::now());
    }

    /// Like [`Pick::first_byte`], at another time than now.
    pub fn first_byte_at(&self, now: Instant) {
        let Reservation { endpoints, address, id, .. } = &self.reservation;
        endpoints.first_byte(*address, *id, now);
    }

    /// Takes the blocks that are read after the decision. Independent of the pick.
    pub fn block_sink(&self) -> BlockSink {
        let Reservation { endpoints, address, .. } = &self.reservation;
        BlockSink { endpoints: endpoints.clone(), address: *address }
    }

    /// How the request ends, if nothing else is said before the pick is dropped.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.reservation.outcome = outcome;
    }

    /// The request ended, at another time than now.
    pub fn end_at(mut self, outcome: Outcome, now: Instant) {
        self.reservation.outcome = outcome;
        self.reservation.release(now);
    }
}

/// Takes the blocks of a prompt that are read after the decision.
pub struct BlockSink {
    endpoints: Arc<Endpoints>,
    address: SocketAddr,
}

impl BlockSink {
    /// The endpoint gets a prompt with these blocks. Does nothing if the endpoint is gone.
    fn add(&self, blocks: &[u64]) {
        let snapshot = Arc::clone(&self.endpoints.snapshot());
        if let Some(index) = snapshot.position(self.address) {
            self.endpoints.prefixes().insert(snapshot.slot(index), blocks);
        }
    }
}

impl fmt::Debug for BlockSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockSink").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One request in the load of one endpoint.
struct Reservation {
    endpoints: Arc<Endpoints>,
    address: SocketAddr,
    id: PickId,
    outcome: Outcome,
}

impl Reservation {
    fn move_to(&mut self, address: SocketAddr) {
        if address != self.address {
            self.endpoints.move_pick(self.id, self.address, address, Instant::now());
            self.address = address;
        }
    }

    fn release(&self, now: Instant) {
        self.endpoints.release(self.address, self.id, self.outcome, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // A second release of the same pick changes nothing.
        self.release(Instant::now());
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("address", &self.address)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
