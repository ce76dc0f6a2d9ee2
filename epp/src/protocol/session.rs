//! State of one HTTP request: takes the messages of its stream and produces the replies.

use std::{collections::VecDeque, sync::Arc};

use tonic::Status;

use super::{
    body::BodyState,
    gateway::Gateway,
    held::{Charge, HeldBody},
    metadata,
    reply::{self, Body},
    response::ResponseState,
};
use crate::{
    Error,
    metrics::Metrics,
    schedule::{BlockSink, Pick, PickRequest, PromptReader, Scheduler, Subset},
};
use forebay_grpc::proto::{
    HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
    processing_request::Request,
};

/// Whether the stream continues after the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    End,
}

#[derive(Debug)]
pub(super) struct Session {
    scheduler: Arc<Scheduler>,
    metrics: Arc<Metrics>,
    gateway: Arc<Gateway>,
    takes_list: bool,
    stage: Stage,
    request_body: BodyState,
    response_body: BodyState,
    response: ResponseState,
    /// Bytes of replies that may not be sent yet.
    sending: Option<Charge>,
}

#[derive(Debug)]
enum Stage {
    /// Before the request headers.
    New,
    /// The decision waits for the body.
    Reading(Box<Reading>),
    Picked(Pick),
    /// Picked before the end of the body.
    PickedEarly(Pick, Box<PromptReader>, BlockSink),
}

#[derive(Debug)]
struct Reading {
    prompt: PromptReader,
    headers: HttpHeaders,
    subset: Option<Subset>,
    held: HeldBody,
}

impl Session {
    /// `takes_list`: the gateway accepts a list of endpoints.
    pub(super) fn new(
        scheduler: Arc<Scheduler>,
        metrics: Arc<Metrics>,
        gateway: Arc<Gateway>,
        takes_list: bool,
    ) -> Self {
        Self {
            scheduler,
            metrics,
            gateway,
            takes_list,
            stage: Stage::New,
            request_body: BodyState::new(None),
            response_body: BodyState::new(None),
            response: ResponseState::default(),
            sending: None,
        }
    }

    /// Called after all earlier replies were sent.
    pub(super) fn on_message(
        &mut self,
        message: ProcessingRequest,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Result<Next, Status> {
        self.sending = None;
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
        let metadata = message.metadata_context.as_ref();
        match (request, &mut self.stage) {
            (Request::RequestHeaders(headers), Stage::New) => {
                Ok(self.on_request_headers(headers, metadata, replies))
            }
            (Request::RequestHeaders(_), _) => {
                Err(Status::invalid_argument("request headers were sent twice"))
            }
            (_, Stage::New) => Err(Status::invalid_argument("the first message must be the request headers")),
            (Request::RequestBody(body), Stage::Reading(_)) => Ok(self.read(body, replies)),
            // The body ends with trailers, or without an end.
            (request, Stage::Reading(reading)) => {
                reading.prompt.finish();
                if self.decide(false, replies) == Next::End {
                    return Ok(Next::End);
                }
                self.on_picked(request, metadata, replies);
                Ok(Next::Continue)
            }
            (request, Stage::Picked(_) | Stage::PickedEarly(..)) => {
                self.on_picked(request, metadata, replies);
                Ok(Next::Continue)
            }
        }
    }

    /// The gateway ended the stream regularly.
    pub(super) fn on_end(&mut self) {
        self.expect_no_body();
        if let Stage::Picked(pick) | Stage::PickedEarly(pick, ..) = &mut self.stage {
            self.response.on_end(pick);
        }
    }

    /// Replies at once if the decision does not depend on the body, or the body does not come before the reply.
    fn on_request_headers(
        &mut self,
        headers: HttpHeaders,
        metadata: Option<&Metadata>,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Next {
        let subset = metadata::subset(metadata);
        let reads_body =
            !headers.end_of_stream && self.request_body.is_sent_ahead() && self.scheduler.needs().prompt;
        if let Some(prompt) = reads_body.then(|| metadata::prompt_reader(&headers)).flatten() {
            let prompt = prompt.with_first_byte(self.gateway.relays_responses());
            let held = HeldBody::new(self.gateway.clone());
            self.stage = Stage::Reading(Box::new(Reading { prompt, headers, subset, held }));
            return Next::Continue;
        }
        let request = self.request(subset.as_ref(), &headers);
        match self.scheduler.pick(&request) {
            Ok(pick) => {
                replies.push_back(reply::picked(&pick, false));
                self.stage = Stage::Picked(pick);
                Next::Continue
            }
            Err(error) => fail(&error, replies),
        }
    }

    /// What the decision depends on, without the prompt.
    fn request<'a>(&self, subset: Option<&'a Subset>, headers: &'a HttpHeaders) -> PickRequest<'a> {
        PickRequest { subset, takes_list: self.takes_list, headers: Some(headers), ..PickRequest::default() }
    }

    /// Reads a message of the body, and decides as soon as more of it cannot change the decision, or may not be held.
    fn read(&mut self, body: HttpBody, replies: &mut VecDeque<ProcessingResponse>) -> Next {
        let Stage::Reading(reading) = &mut self.stage else { return Next::Continue };
        reading.prompt.feed(&body.body);
        let may_hold_more = reading.held.push(body.body);
        if body.end_of_stream {
            reading.prompt.finish();
        }
        let can_decide = self.scheduler.can_decide(&mut reading.prompt)
            && (body.end_of_stream || !self.gateway.stops_bodies());
        if may_hold_more && !can_decide {
            return Next::Continue;
        }
        self.decide(body.end_of_stream, replies)
    }

    /// Replies to the headers, then to what was held of the body.
    fn decide(&mut self, end_of_stream: bool, replies: &mut VecDeque<ProcessingResponse>) -> Next {
        let stage = std::mem::replace(&mut self.stage, Stage::New);
        let Stage::Reading(reading) = stage else { return Next::Continue };
        let Reading { prompt, headers, subset, held } = *reading;
        let request = self.request(subset.as_ref(), &headers);
        let pick = match self.scheduler.pick_for(&prompt, request) {
            Ok(pick) => pick,
            Err(error) => return fail(&error, replies),
        };
        replies.push_back(reply::picked(&pick, true));
        self.stage = if prompt.is_ended() {
            Stage::Picked(pick)
        } else {
            let sink = pick.block_sink();
            Stage::PickedEarly(pick, Box::new(prompt), sink)
        };
        let (mut pieces, charge) = held.into_pieces();
        self.sending = Some(charge);
        if end_of_stream && pieces.is_empty() {
            pieces.push(bytes::Bytes::new());
        }
        let last = pieces.len().saturating_sub(1);
        for (index, body) in pieces.into_iter().enumerate() {
            let end_of_stream = end_of_stream && index == last;
            self.request_body.on_message(Body::Request, HttpBody { body, end_of_stream }, replies);
        }
        Next::Continue
    }

    fn on_picked(
        &mut self,
        request: Request,
        metadata: Option<&Metadata>,
        replies: &mut VecDeque<ProcessingResponse>,
    ) {
        match request {
            Request::RequestHeaders(_) => {}
            Request::RequestBody(body) => {
                self.read_rest(&body.body, body.end_of_stream);
                self.request_body.on_message(Body::Request, body, replies);
            }
            Request::RequestTrailers(_) => {
                self.read_rest(&[], true);
                replies.push_back(reply::request_trailers());
            }
            Request::ResponseHeaders(headers) => {
                let added = self.on_response_headers(&headers, metadata);
                replies.push_back(reply::response_headers(added));
            }
            Request::ResponseBody(body) => {
                self.gateway.relayed_response();
                if let Stage::Picked(pick) | Stage::PickedEarly(pick, ..) = &self.stage {
                    self.response.on_body(&body.body, pick);
                }
                self.response_body.on_message(Body::Response, body, replies);
            }
            Request::ResponseTrailers(_) => replies.push_back(reply::response_trailers()),
        }
    }

    /// The picked endpoint holds the blocks behind the decision too.
    fn read_rest(&mut self, bytes: &[u8], end_of_stream: bool) {
        let Stage::PickedEarly(_, prompt, sink) = &mut self.stage else { return };
        if prompt.is_ended() {
            return;
        }
        prompt.feed(bytes);
        if end_of_stream {
            prompt.finish();
            self.scheduler.add_rest(prompt, sink);
        }
    }

    /// The request is over, so nothing of its body follows.
    fn expect_no_body(&self) {
        if let Stage::PickedEarly(_, prompt, _) = &self.stage
            && !prompt.is_ended()
        {
            self.gateway.stopped_body();
        }
    }

    /// Returns headers to add.
    fn on_response_headers(
        &mut self,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
    ) -> Vec<(String, String)> {
        self.metrics.count_response(metadata::status(headers));
        self.expect_no_body();
        let (Stage::Picked(pick) | Stage::PickedEarly(pick, ..)) = &mut self.stage else { return Vec::new() };
        if let Some(served) = metadata::served(metadata) {
            pick.served_by(served);
        }
        self.response.on_headers(headers, pick);
        pick.response_headers()
    }
}

fn fail(error: &Error, replies: &mut VecDeque<ProcessingResponse>) -> Next {
    replies.push_back(reply::failed(error));
    Next::End
}
