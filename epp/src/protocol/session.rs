//! State of one HTTP request: takes the messages of its stream and produces the replies.

use std::{collections::VecDeque, sync::Arc};

use tonic::Status;

use super::{
    body::BodyState,
    conformance,
    gateway::Gateway,
    held::{Charge, HeldBody},
    metadata::{self, Wishes},
    received::{Receiving, Rest},
    reply::{self, Body, Hints},
    response::ResponseState,
};
use crate::{
    metrics::Metrics,
    schedule::{BlockSink, Explanation, Pick, PickRequest, PromptReader, PromptSource, Scheduler, Subset},
};
use forebay_grpc::proto::{
    Any, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
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
    announced: Announced,
    obeyed: ObeyedHeaders,
    wishes: Wishes,
    stage: Stage,
    request_body: BodyState,
    response_body: BodyState,
    response: ResponseState,
    /// Bytes of replies that may not be sent yet.
    sending: Option<Charge>,
}

/// Headers of clients that the picker obeys.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObeyedHeaders {
    /// Those of the conformance suite: they choose the endpoint.
    pub conformance_test: bool,
    /// `Prefer: reserve-endpoint`: the response is the address of an endpoint.
    pub reserve_endpoint: bool,
}

/// What the gateway has announced for a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    /// It accepts a list of endpoints.
    pub(super) takes_list: bool,
    /// It can send prompts in messages.
    pub(super) sends_prompt: bool,
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
    /// The decision waits for messages about the prompt.
    Receiving(Box<Receiving>),
    /// Picked before the last message about the prompt.
    PickedEarlyByMessages(Pick, Box<Rest>),
}

impl Stage {
    fn pick(&mut self) -> Option<&mut Pick> {
        match self {
            Self::Picked(pick) | Self::PickedEarly(pick, ..) | Self::PickedEarlyByMessages(pick, _) => {
                Some(pick)
            }
            Self::New | Self::Reading(_) | Self::Receiving(_) => None,
        }
    }
}

#[derive(Debug)]
struct Reading {
    prompt: PromptReader,
    headers: HttpHeaders,
    subset: Option<Subset>,
    held: HeldBody,
}

impl Session {
    pub(super) fn new(
        scheduler: Arc<Scheduler>,
        metrics: Arc<Metrics>,
        gateway: Arc<Gateway>,
        announced: Announced,
        obeyed: ObeyedHeaders,
    ) -> Self {
        Self {
            scheduler,
            metrics,
            gateway,
            announced,
            obeyed,
            wishes: Wishes::default(),
            stage: Stage::New,
            request_body: BodyState::new(None),
            response_body: BodyState::new(None),
            response: ResponseState::default(),
            sending: None,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
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
        let metadata = message.metadata_context.as_ref();
        let prompt = metadata.filter(|_| self.takes_prompt()).and_then(metadata::prompt);
        if let Some(part) = prompt
            && self.receive(part, replies)? == Next::End
        {
            return Ok(Next::End);
        }
        let Some(request) = message.request else { return Ok(Next::Continue) };
        self.on_request(request, metadata, prompt, replies)
    }

    fn on_request(
        &mut self,
        request: Request,
        metadata: Option<&Metadata>,
        prompt: Option<&Any>,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Result<Next, Status> {
        match (request, &mut self.stage) {
            (Request::RequestHeaders(headers), Stage::New) => match prompt {
                Some(part) => {
                    self.wishes = metadata::wishes(metadata);
                    let subset = self.subset(&headers, metadata);
                    let receiving = Receiving::new(headers, subset, self.gateway.clone());
                    self.stage = Stage::Receiving(Box::new(receiving));
                    self.receive(part, replies)
                }
                None => Ok(self.on_request_headers(headers, metadata, replies)),
            },
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
            (request, Stage::Receiving(_)) => {
                if self.decide_received(replies) == Next::End {
                    return Ok(Next::End);
                }
                self.on_picked(request, metadata, replies);
                Ok(Next::Continue)
            }
            (request, Stage::Picked(_) | Stage::PickedEarly(..) | Stage::PickedEarlyByMessages(..)) => {
                self.on_picked(request, metadata, replies);
                Ok(Next::Continue)
            }
        }
    }

    /// The gateway ended the stream regularly.
    pub(super) fn on_end(&mut self) {
        self.expect_no_body();
        if let Some(pick) = self.stage.pick() {
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
        self.wishes = metadata::wishes(metadata);
        let subset = self.subset(&headers, metadata);
        let reads_body =
            !headers.end_of_stream && self.request_body.is_sent_ahead() && self.scheduler.needs().prompt;
        if let Some(prompt) = reads_body.then(|| metadata::prompt_reader(&headers)).flatten() {
            let prompt = prompt.with_first_byte(self.gateway.relays_responses());
            let held = HeldBody::new(self.gateway.clone());
            self.stage = Stage::Reading(Box::new(Reading { prompt, headers, subset, held }));
            return Next::Continue;
        }
        let Some(pick) = self.pick(None, subset.as_ref(), &headers, false, replies) else { return Next::End };
        self.stage = Stage::Picked(pick);
        Next::Continue
    }

    /// Whether the gateway may send prompts in messages.
    fn takes_prompt(&self) -> bool {
        self.announced.sends_prompt && self.scheduler.needs().prompt
    }

    /// Picks an endpoint, and replies with it. `None`: no request follows, so the stream ends after the reply.
    fn pick(
        &self,
        source: Option<&dyn PromptSource>,
        subset: Option<&Subset>,
        headers: &HttpHeaders,
        reads_body: bool,
        replies: &mut VecDeque<ProcessingResponse>,
    ) -> Option<Pick> {
        let (scheduler, takes_list) = (&self.scheduler, self.announced.takes_list);
        let request = PickRequest { subset, takes_list, headers: Some(headers), ..PickRequest::default() };
        let explanation = self.wishes.explains.then(|| match source {
            Some(source) => scheduler.explain_for(source, request),
            None => scheduler.explain(&request),
        });
        let explanation = explanation.and_then(Result::ok).map(Explanation::into_json);
        let is_reserved_by_client =
            self.obeyed.reserve_endpoint && !self.wishes.reserves && metadata::asks_for_reservation(headers);
        if self.wishes.reserves || is_reserved_by_client {
            let reserved = match source {
                Some(source) => scheduler.dry_pick_for(source, request),
                None => scheduler.dry_pick(&request),
            };
            replies.push_back(match reserved {
                Ok(endpoints) if is_reserved_by_client => reply::reserved(&endpoints),
                Ok(endpoints) => reply::picked(&endpoints, reads_body, self.hints(false, explanation)),
                Err(error) => reply::failed(&error, explanation),
            });
            return None;
        }
        let picked = match source {
            Some(source) => scheduler.pick_for(source, request),
            None => scheduler.pick(&request),
        };
        let (reply, pick) = match picked {
            Ok(pick) => {
                let hints = self.hints(pick.changes_response(), explanation);
                (reply::picked(pick.addresses(), reads_body, hints), Some(pick))
            }
            Err(error) => (reply::failed(&error, explanation), None),
        };
        replies.push_back(reply);
        pick
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

    /// Takes a part of a prompt, if it is expected.
    fn receive(&mut self, part: &Any, replies: &mut VecDeque<ProcessingResponse>) -> Result<Next, Status> {
        let decides = match &mut self.stage {
            Stage::Receiving(receiving) => receiving.receive(part, &self.scheduler)?,
            Stage::PickedEarlyByMessages(_, rest) => {
                rest.receive(part, &self.scheduler)?;
                false
            }
            _ => false,
        };
        Ok(if decides { self.decide_received(replies) } else { Next::Continue })
    }

    /// Decides with what was received.
    fn decide_received(&mut self, replies: &mut VecDeque<ProcessingResponse>) -> Next {
        let stage = std::mem::replace(&mut self.stage, Stage::New);
        let Stage::Receiving(receiving) = stage else { return Next::Continue };
        let Receiving { prompt, headers, subset, .. } = *receiving;
        let picked = self.pick(Some(&prompt), subset.as_ref(), &headers, false, replies);
        let Some(pick) = picked else { return Next::End };
        self.stage = if prompt.is_ended() {
            Stage::Picked(pick)
        } else {
            let rest = Rest::new(prompt, &pick);
            Stage::PickedEarlyByMessages(pick, Box::new(rest))
        };
        Next::Continue
    }

    /// Replies to the headers, then to what was held of the body.
    fn decide(&mut self, end_of_stream: bool, replies: &mut VecDeque<ProcessingResponse>) -> Next {
        let stage = std::mem::replace(&mut self.stage, Stage::New);
        let Stage::Reading(reading) = stage else { return Next::Continue };
        let Reading { prompt, headers, subset, held } = *reading;
        let picked = self.pick(Some(&prompt), subset.as_ref(), &headers, true, replies);
        let Some(pick) = picked else { return Next::End };
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
                if let Some(pick) = self.stage.pick() {
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
            self.scheduler.add_rest(&**prompt, sink);
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

    fn hints(&self, changes_response: bool, explanation: Option<String>) -> Hints {
        let changes_response = self.obeyed.conformance_test || changes_response;
        Hints { takes_prompt: self.takes_prompt(), changes_response, explanation }
    }

    /// The eligible endpoints. `None`: all.
    fn subset(&self, headers: &HttpHeaders, metadata: Option<&Metadata>) -> Option<Subset> {
        let steered = self.obeyed.conformance_test.then(|| conformance::selection(headers)).flatten();
        steered.or_else(|| metadata::subset(metadata))
    }

    /// Returns headers to add.
    fn on_response_headers(
        &mut self,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
    ) -> Vec<(String, String)> {
        self.metrics.count_response(metadata::status(headers));
        self.expect_no_body();
        let Some(pick) = self.stage.pick() else { return Vec::new() };
        if let Some(served) = metadata::served(metadata) {
            pick.served_by(served);
        }
        self.response.on_headers(headers, pick);
        let mut added = pick.response_headers();
        added.extend(self.obeyed.conformance_test.then(|| conformance::served(metadata)));
        added
    }
}
