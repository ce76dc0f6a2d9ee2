//! Decides before the end of the body.
//!
//! As soon as no endpoint holds the last block that was read, the blocks behind it cannot change the match: a block is
//! known by a hash over all blocks before it. A pool with one endpoint has no choice, so its decision does not wait.
//!
//! Members that change all keys (`tools`, `cache_salt`) may follow the messages. A pool whose clients write bodies in this
//! order decides at the end of the body, until a number of bodies in a row had another order.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Addresses, BlockSink, Explanation, Pick, PickRequest, Prompt, PromptSource, Scheduler};
use crate::Error;

/// Bodies in a row without late members, after which decisions are early again.
const BODIES_UNTIL_EARLY: u32 = 100;

/// Whether clients of the pool send members that change the keys behind the messages.
#[derive(Debug, Default)]
pub(super) struct LateMembers {
    /// Bodies that are still read to their end.
    bodies: AtomicU32,
}

impl LateMembers {
    fn are_expected(&self) -> bool {
        self.bodies.load(Relaxed) > 0
    }

    fn count(&self, has_late_members: bool) {
        if has_late_members {
            self.bodies.store(BODIES_UNTIL_EARLY, Relaxed);
        } else {
            // Fails at 0.
            let _ = self.bodies.fetch_update(Relaxed, Relaxed, |bodies| bodies.checked_sub(1));
        }
    }
}

impl<'a> PickRequest<'a> {
    /// `prompt`: of the source.
    fn with_source<'b>(self, source: &'b (impl PromptSource + ?Sized), prompt: &'b Prompt) -> PickRequest<'b>
    where
        'a: 'b,
    {
        let model = source.model().or(self.model);
        PickRequest { prompt: Some(prompt), model, body_share: source.read_share(), ..self }
    }
}

impl Scheduler {
    /// Whether more of the body cannot change the decision.
    pub fn can_decide(&self, source: &mut impl PromptSource) -> bool {
        if source.is_ended() || self.endpoints.snapshot().len() <= 1 {
            return true;
        }
        let Some(block) = source.block_to_try() else { return false };
        if self.endpoints.prefixes().is_held(block) {
            return false;
        }
        source.diverged();
        !self.late_members.are_expected()
    }

    /// Picks endpoints for the prompt that is known so far, which replaces the one of `request`. See [`Scheduler::pick`].
    ///
    /// # Errors
    ///
    /// As [`Scheduler::pick`].
    pub fn pick_for(
        &self,
        source: &(impl PromptSource + ?Sized),
        request: PickRequest<'_>,
    ) -> Result<Pick, Error> {
        self.learn_order(source);
        let prompt = source.prompt();
        let pick = self.pick(&request.with_source(source, &prompt))?;
        if let Some(share) = source.read_share() {
            self.metrics.record_body_share(share);
        }
        Ok(pick)
    }

    /// Like [`Scheduler::dry_pick`], for the prompt that is known so far.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::pick`].
    pub fn dry_pick_for(
        &self,
        source: &(impl PromptSource + ?Sized),
        request: PickRequest<'_>,
    ) -> Result<Addresses, Error> {
        self.dry_pick(&request.with_source(source, &source.prompt()))
    }

    /// Like [`Scheduler::explain`], for the prompt that is known so far.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::explain`].
    pub fn explain_for(
        &self,
        source: &(impl PromptSource + ?Sized),
        request: PickRequest<'_>,
    ) -> Result<Explanation, Error> {
        self.explain(&request.with_source(source, &source.prompt()))
    }

    /// The body of a request that was picked before its end has ended: the endpoint of `sink` holds all blocks.
    pub fn add_rest(&self, source: &(impl PromptSource + ?Sized), sink: &BlockSink) {
        self.learn_order(source);
        sink.add(&source.prompt().blocks);
    }

    /// Takes note of where the body has the members that change the keys.
    fn learn_order(&self, source: &(impl PromptSource + ?Sized)) {
        if let Some(has_late_members) = source.changed_after_divergence() {
            self.late_members.count(has_late_members);
        }
    }
}
