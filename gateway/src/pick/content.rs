//! What a picker is sent of the content of a request: the body, or the prompt in messages.

use forebay_grpc::Outbox;
use forebay_grpc::proto::{BodySendMode, Metadata, ProcessingRequest};
use tonic::Status;

use super::message::{Cursor, Piece};
use super::peers::Peer;
use super::prompt::SentPrompt;
use super::question::Question;
use crate::hold::HeldBody;

#[derive(Debug)]
pub(super) enum Content {
    /// The body, piece by piece (`FULL_DUPLEX_STREAMED`).
    Body,
    /// The prompt.
    Prompt(Box<SentPrompt>),
    /// The picker takes prompts, and this request has none that can be read.
    Nothing,
}

/// What can be sent now.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is made where it is used, and not stored")]
pub(super) enum Next {
    Piece(Piece),
    News,
}

impl Content {
    /// Returns the first message too. `takes_prompts`: what the picker said.
    pub(super) fn start(question: &Question<'_, '_>, takes_prompts: bool) -> (ProcessingRequest, Self) {
        let mut metadata = question.metadata.clone();
        if !takes_prompts || question.has_no_body() {
            return (question.headers(BodySendMode::FullDuplexStreamed, metadata), Self::Body);
        }
        let content = match SentPrompt::new(question.head, question.body) {
            None => Self::Nothing,
            Some(mut prompt) => {
                prompt.add_to(&mut metadata, question.body);
                Self::Prompt(prompt)
            }
        };
        (question.headers(BodySendMode::None, metadata), content)
    }

    pub(super) fn is_body(&self) -> bool {
        matches!(self, Self::Body)
    }

    /// Whether the body waits for the reply to the headers.
    pub(super) fn is_body_delayed(&self, peer: &Peer) -> bool {
        self.is_body() && peer.skips_body()
    }

    /// The first message was sent.
    pub(super) fn first_was_sent(&mut self) {
        if let Self::Prompt(prompt) = self {
            prompt.sent();
        }
    }

    /// What can be sent. `cursor`: the position in the body.
    pub(super) fn next(&mut self, cursor: &Cursor, body: &HeldBody, metadata: &Metadata) -> Option<Next> {
        match self {
            Self::Body => cursor.next(body, metadata).map(Next::Piece),
            Self::Prompt(prompt) => prompt.is_due(body).then_some(Next::News),
            Self::Nothing => None,
        }
    }

    /// Whether more of the client's body is wanted.
    pub(super) fn needs_more(&self, body: &HeldBody) -> bool {
        match self {
            Self::Body => !body.is_complete(),
            Self::Prompt(_) => !body.is_complete() && body.may_hold_more(),
            Self::Nothing => false,
        }
    }

    /// The client's body continues with `data`.
    pub(super) fn feed(&mut self, data: &[u8]) {
        if let Self::Prompt(prompt) = self {
            prompt.feed(data);
        }
    }

    /// Sends what [`Content::next`] returned. Call it only when `requests` is free.
    pub(super) fn send(
        &mut self,
        next: Next,
        requests: &mut Outbox,
        cursor: &mut Cursor,
        body: &HeldBody,
    ) -> Result<(), Status> {
        match (next, self) {
            (Next::Piece(Piece { message, then }), _) => {
                requests.send(&message)?;
                *cursor = then;
            }
            (Next::News, Self::Prompt(prompt)) => {
                requests.send(&prompt.message(body))?;
                prompt.sent();
            }
            (Next::News, _) => {}
        }
        Ok(())
    }

    pub(super) fn into_prompt(self) -> Option<Box<SentPrompt>> {
        match self {
            Self::Prompt(prompt) => Some(prompt),
            Self::Body | Self::Nothing => None,
        }
    }
}
