//! State of one HTTP request: takes the messages of its stream and produces the replies.

use std::{collections::VecDeque, sync::Arc};

use tonic::Status;

use super::{
    metadata,
    reply::{self, Body},
};
use crate::{
    metrics::Metrics,
    schedule::{Pick, PickRequest, Scheduler},
};
use forebay_grpc::proto::{
    BodySendMode, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, processing_request::Request,
};

/// Whether the stream continues after the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    End,
}

/// How body messages are replied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyReplies {
    /// `FULL_DUPLEX_STREAMED`: the replies contain the body that the gateway forwards.
    Echo,
    /// Other modes: one reply per message.
    Unchanged,
}

#[derive(Debug)]
pub(super) struct Session {
    scheduler: Arc<Scheduler>,
    metrics: Arc<Metrics>,
    takes_list: bool,
    pick: Option<Pick>,
    request_body: BodyState,
    response_body: BodyState,
}

#[derive(Debug)]
struct BodyState {
    replies: BodyReplies,
    ended: bool,
}

impl BodyState {
    fn new(mode: Option<i32>) -> Self {
        let mode = mode.and_then(|mode| BodySendMode::try_from(mode).ok());
        let replies = match mode {
            Some(BodySendMode::Streamed | BodySendMode::Buffered | BodySendMode::BufferedPartial) => {
                BodyReplies::Unchanged
            }
            _ => BodyReplies::Echo,
        };
        Self { replies, ended: false }
    }

    fn on_message(&mut self, which: Body, message: HttpBody, replies: &mut VecDeque<ProcessingResponse>) {
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

impl Session {
    /// `takes_list`: the gateway accepts a list of endpoints.
    pub(super) fn new(scheduler: Arc<Scheduler>, metrics: Arc<Metrics>, takes_list: bool) -> Self {
        Self {
            scheduler,
            metrics,
            takes_list,
            pick: None,
            request_body: BodyState::new(None),
            response_body: BodyState::new(None),
        }
    }

    pub(super) fn on_message(
        &mut self,
        message: ProcessingRequest,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Result<Next, Status> {
        // The gateway ignores replies in this mode.
        if message.observability_mode {
            return Ok(Next::Continue);
        }
        if let Some(ProtocolConfiguration { request_body_mode, response_body_mode, .. }) =
            message.protocol_config
        {
            self.request_body = BodyState::new(Some(request_body_mode));
            self.response_body = BodyState::new(Some(response_body_mode));
        }
        let Some(request) = message.request else { return Ok(Next::Continue) };
        if let Request::RequestHeaders(_) = request {
            return self.on_request_headers(message.metadata_context.as_ref(), replies);
        }
        if self.pick.is_none() {
            return Err(Status::invalid_argument("the first message must be the request headers"));
        }
        match request {
            Request::RequestHeaders(_) => {}
            Request::RequestBody(body) => self.request_body.on_message(Body::Request, body, replies),
            Request::RequestTrailers(_) => replies.push_back(reply::request_trailers()),
            Request::ResponseHeaders(headers) => {
                self.on_response_headers(&headers, message.metadata_context.as_ref());
                replies.push_back(reply::response_headers());
            }
            Request::ResponseBody(body) => self.response_body.on_message(Body::Response, body, replies),
            Request::ResponseTrailers(_) => replies.push_back(reply::response_trailers()),
        }
        Ok(Next::Continue)
    }

    /// Replies at once, because the decision does not depend on the body.
    fn on_request_headers(
        &mut self,
        metadata: Option<&Metadata>,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Result<Next, Status> {
        if self.pick.is_some() {
            return Err(Status::invalid_argument("request headers were sent twice"));
        }
        let subset = metadata::subset(metadata);
        let request =
            PickRequest { subset: subset.as_ref(), takes_list: self.takes_list, ..PickRequest::default() };
        match self.scheduler.pick(&request) {
            Ok(pick) => {
                replies.push_back(reply::picked(&pick));
                self.pick = Some(pick);
                Ok(Next::Continue)
            }
            Err(error) => {
                replies.push_back(reply::failed(&error));
                Ok(Next::End)
            }
        }
    }

    fn on_response_headers(&mut self, headers: &HttpHeaders, metadata: Option<&Metadata>) {
        self.metrics.count_response(metadata::status(headers));
        if let (Some(pick), Some(served)) = (&mut self.pick, metadata::served(metadata)) {
            pick.served_by(served);
        }
    }
}
