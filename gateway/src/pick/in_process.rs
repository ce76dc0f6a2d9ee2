use std::sync::Arc;

use bytes::Bytes;
use forebay_epp::schedule::{BlockSink, Outcome, Pick, PromptReader, Scheduler};
use http::request;

use crate::hold::{self, HeldBody, RestObserver};

/// A request whose endpoint was picked in this process.
#[derive(Debug)]
pub(crate) struct InProcessPick {
    pick: Pick,
    has_first_byte: bool,
    /// How the request ends if its response is complete.
    outcome: Outcome,
}

impl InProcessPick {
    pub(super) fn new(pick: Pick) -> Self {
        Self { pick, has_first_byte: false, outcome: Outcome::Succeeded }
    }

    pub(super) fn pick_mut(&mut self) -> &mut Pick {
        &mut self.pick
    }

    pub(super) fn first_byte(&mut self) {
        if !std::mem::replace(&mut self.has_first_byte, true) {
            self.pick.first_byte();
        }
    }

    /// The request ends with this outcome in any case.
    pub(super) fn ends_with(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.pick.set_outcome(outcome);
    }

    /// The response is complete.
    pub(super) fn finish(mut self) {
        self.pick.set_outcome(self.outcome);
    }
}

/// Reads the prompt, if the scheduler compares prompts: until the rest of the body cannot change the decision, or no more
/// may be held.
pub(crate) async fn read_prompt(
    scheduler: &Scheduler,
    head: &request::Parts,
    body: &mut HeldBody,
) -> Result<Option<Box<PromptReader>>, hold::Error> {
    if !scheduler.needs().prompt || (body.is_complete() && body.frames().is_empty()) {
        return Ok(None);
    }
    let reader = PromptReader::new(head.uri.path(), &head.headers);
    let Some(mut reader) = reader.map(|reader| Box::new(reader.with_length(body.max_bytes()))) else {
        return Ok(None);
    };
    for frame in body.frames() {
        reader.feed(frame);
    }
    while !body.is_complete() && body.may_hold_more() && !scheduler.can_decide(&mut *reader) {
        if let Some(data) = body.read_data().await? {
            reader.feed(&data);
        }
    }
    if body.is_complete() {
        reader.finish();
    }
    Ok(Some(reader))
}

/// Reads the rest of a prompt after the decision, so that the endpoint is known to hold it.
#[derive(Debug)]
pub(super) struct PromptRest {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) reader: Box<PromptReader>,
    pub(super) sink: BlockSink,
}

impl RestObserver for PromptRest {
    fn data(&mut self, data: &Bytes) {
        self.reader.feed(data);
    }

    fn end(mut self: Box<Self>) {
        self.reader.finish();
        self.scheduler.add_rest(&*self.reader, &self.sink);
    }
}
