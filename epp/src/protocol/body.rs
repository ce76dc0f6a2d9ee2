//! Replies to the messages of a body.

use std::collections::VecDeque;

use super::reply::Body;
use forebay_grpc::proto::{BodySendMode, HttpBody, ProcessingResponse};

/// How body messages are replied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyReplies {
    /// `FULL_DUPLEX_STREAMED`: the replies contain the body that the gateway forwards.
    Echo,
    /// Other modes: one reply per message.
    Unchanged,
}

#[derive(Debug)]
pub(super) struct BodyState {
    replies: BodyReplies,
    /// The gateway sends the body before the headers are replied to.
    is_sent_ahead: bool,
    ended: bool,
}

impl BodyState {
    pub(super) fn new(mode: Option<i32>) -> Self {
        let mode = mode.and_then(|mode| BodySendMode::try_from(mode).ok());
        let is_sent_ahead = mode == Some(BodySendMode::FullDuplexStreamed);
        let replies = match mode {
            Some(BodySendMode::Streamed | BodySendMode::Buffered | BodySendMode::BufferedPartial) => {
                BodyReplies::Unchanged
            }
            _ => BodyReplies::Echo,
        };
        Self { replies, is_sent_ahead, ended: false }
    }

    /// Whether the reply to the headers may wait for the body. Without a configuration it is not known whether the body
    /// comes, so the reply does not wait.
    pub(super) fn is_sent_ahead(&self) -> bool {
        self.is_sent_ahead
    }

    pub(super) fn on_message(
        &mut self,
        which: Body,
        message: HttpBody,
        replies: &mut VecDeque<ProcessingResponse>,
    ) {
        match self.replies {
            BodyReplies::Unchanged => replies.push_back(which.unchanged()),
            // Envoy 1.35 to 1.37 repeats the last chunk of bodies of 1 MB or more, and fails on a reply to the
            // repeated one (envoy #46237).
            BodyReplies::Echo if self.ended => {}
            BodyReplies::Echo => {
                self.ended = message.end_of_stream;
                replies.extend(which.echo(message));
            }
        }
    }
}
