//! Requests whose prompt comes in messages instead of a body: see [`features`](crate::features).

use std::sync::Arc;

use tonic::Status;

use super::{gateway::Gateway, held::Charge};
use crate::{
    features::{FeaturesError, ReceivedPrompt},
    schedule::{BlockSink, Pick, PromptSource as _, Scheduler, Subset},
};
use forebay_grpc::proto::{Any, HttpHeaders};

/// The decision waits for more of the prompt.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) prompt: ReceivedPrompt,
    pub(super) headers: HttpHeaders,
    pub(super) subset: Option<Subset>,
    /// The blocks.
    charge: Charge,
}

impl Receiving {
    pub(super) fn new(headers: HttpHeaders, subset: Option<Subset>, gateway: Arc<Gateway>) -> Self {
        let prompt = ReceivedPrompt::new(gateway.relays_responses());
        Self { prompt, headers, subset, charge: Charge::new(gateway) }
    }

    /// Takes a part of the prompt. True as soon as more of it cannot change the decision, or may not be held.
    pub(super) fn receive(&mut self, part: &Any, scheduler: &Scheduler) -> Result<bool, Status> {
        let blocks = self.prompt.receive(part).map_err(|error| invalid(&error))?;
        let may_hold_more = self.charge.grow(blocks * size_of::<u64>());
        let can_decide = scheduler.can_decide(&mut self.prompt);
        Ok(can_decide || self.prompt.must_decide() || !may_hold_more)
    }
}

/// A prompt after the decision.
#[derive(Debug)]
pub(super) struct Rest {
    prompt: ReceivedPrompt,
    sink: BlockSink,
}

impl Rest {
    pub(super) fn new(prompt: ReceivedPrompt, pick: &Pick) -> Self {
        Self { prompt, sink: pick.block_sink() }
    }

    /// Takes a part of the prompt. The picked endpoint holds the blocks behind the decision too.
    pub(super) fn receive(&mut self, part: &Any, scheduler: &Scheduler) -> Result<(), Status> {
        self.prompt.receive(part).map_err(|error| invalid(&error))?;
        if self.prompt.is_ended() {
            scheduler.add_rest(&self.prompt, &self.sink);
        }
        Ok(())
    }
}

/// A gateway that sends invalid messages is broken. Its error is not one of the HTTP request, so the failure mode of the pool
/// applies.
fn invalid(error: &FeaturesError) -> Status {
    Status::invalid_argument(format!("the prompt in the metadata {error}"))
}
