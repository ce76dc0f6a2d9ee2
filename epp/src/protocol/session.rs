//! One HTTP request as the gateway tells it: message in, replies out.

use std::{collections::VecDeque, sync::Arc};

use tonic::Status;

use super::{
    answer::{self, Body},
    metadata,
};
use crate::{
    observe::Metrics,
    schedule::{Pick, PickRequest, Scheduler},
};
use forebay_grpc::proto::{
    BodySendMode, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, processing_request::Request,
};

/// Whether the stream goes on after these replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    End,
}

/// How a body message is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyReplies {
    /// Full duplex: what goes on is what is sent back.
    Echo,
    /// The older modes: each message wants one reply.
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

    fn answer(&mut self, which: Body, message: HttpBody, replies: &mut VecDeque<ProcessingResponse>) {
        match self.replies {
            BodyReplies::Unchanged => replies.push_back(which.unchanged()),
            // Envoy 1.35 to 1.37 repeats the last chunk of a body of 1 MB or
            // more; a reply after the end would be an error to it (envoy #46237).
            BodyReplies::Echo if self.ended => {}
            BodyReplies::Echo => {
                self.ended = message.end_of_stream;
                replies.extend(which.echo(message));
            }
        }
    }
}

impl Session {
    /// `takes_list`: the gateway can go on to the next endpoint when the best fails.
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
        // Nobody would look at an answer, so nothing is decided.
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
            return Err(Status::invalid_argument("the request's headers must come first"));
        }
        match request {
            Request::RequestHeaders(_) => {}
            Request::RequestBody(body) => self.request_body.answer(Body::Request, body, replies),
            Request::RequestTrailers(_) => replies.push_back(answer::request_trailers()),
            Request::ResponseHeaders(headers) => {
                self.on_response_headers(&headers, message.metadata_context.as_ref());
                replies.push_back(answer::response_headers());
            }
            Request::ResponseBody(body) => self.response_body.answer(Body::Response, body, replies),
            Request::ResponseTrailers(_) => replies.push_back(answer::response_trailers()),
        }
        Ok(Next::Continue)
    }

    /// Nothing of the body matters to the choice, so a request with a body and
    /// one without are answered alike: at once.
    fn on_request_headers(
        &mut self,
        metadata: Option<&Metadata>,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Result<Next, Status> {
        if self.pick.is_some() {
            return Err(Status::invalid_argument("the request's headers came twice"));
        }
        let subset = metadata::subset(metadata);
        let request = PickRequest { subset: subset.as_ref(), takes_list: self.takes_list };
        match self.scheduler.pick(&request) {
            Ok(pick) => {
                replies.push_back(answer::picked(&pick));
                self.pick = Some(pick);
                Ok(Next::Continue)
            }
            Err(error) => {
                replies.push_back(answer::failed(&error));
                Ok(Next::End)
            }
        }
    }

    fn on_response_headers(&mut self, headers: &HttpHeaders, metadata: Option<&Metadata>) {
        self.metrics.responded(metadata::status(headers));
        if let (Some(pick), Some(served)) = (&mut self.pick, metadata::served(metadata)) {
            pick.served_by(served);
        }
    }
}
