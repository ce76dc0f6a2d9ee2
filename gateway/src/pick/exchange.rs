//! One request's conversation with one replica of a picker, up to its decision.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use forebay_grpc::Outbox;
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, Metadata, ProcessingRequest,
    ProcessingResponse, body_mutation::Mutation, processing_response::Response,
};
use http::HeaderMap;
use tokio::time::Instant;

use super::channel::Call;
use super::message::{Cursor, Piece};
use super::peers::Peer;
use super::replies::Replies;
use super::reply::{
    Verdict, destination_in_headers, destination_in_metadata, immediate, leaves_response,
    leaves_response_body, mutate, parse_endpoints, skips_response, verdict,
};
use crate::hold::HeldBody;
use crate::{Error, PickerFault};

/// The part of the picker's patience that the body waits for the answer to the headers, when a picker is likely to
/// want no body. A decision takes microseconds; but where all cores are busy it may come late, and bodies that are sent
/// for nothing would then make it later still. A picker that has come to need the body is late by this, once.
const HEAD_START: u32 = 2;

/// How a conversation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Decided {
        endpoints: Vec<SocketAddr>,
        /// Nothing if the picker has ended its side.
        open: Option<(Outbox, Replies)>,
        wants: Wants,
    },
    /// The replica could not be reached or refused the stream: another may be asked.
    Unreachable {
        fault: PickerFault,
        /// The connection was there before, and may have ended in this moment: the replica may be asked again.
        was_reused: bool,
    },
    Failed(PickerFault),
}

/// What of the response a picker may still have something to say to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wants {
    /// It only listens.
    Nothing,
    Headers,
    Body,
}

/// Asks `peer`. Errors are the client's, or the picker's own answer to it. `patience`: the longest wait for the
/// picker, once it has what has come of the body.
pub(super) async fn ask(
    peer: &Peer,
    first: &ProcessingRequest,
    headers: &mut HeaderMap,
    body: &mut HeldBody,
    patience: Duration,
    offered: Wants,
) -> Result<Outcome, Error> {
    let mut outcome = converse(peer, first, headers, body, patience, offered).await?;
    if matches!(outcome, Outcome::Unreachable { was_reused: true, .. }) {
        outcome = converse(peer, first, headers, body, patience, offered).await?;
    }
    if !matches!(outcome, Outcome::Decided { .. }) {
        // Another program may be there when it can be reached again.
        peer.set_skips_body(false);
    }
    Ok(outcome)
}

async fn converse(
    peer: &Peer,
    first: &ProcessingRequest,
    headers: &mut HeaderMap,
    body: &mut HeldBody,
    patience: Duration,
    offered: Wants,
) -> Result<Outcome, Error> {
    let began = Instant::now();
    let called = tokio::time::timeout_at(began + patience, peer.channel().call());
    let Call { mut requests, mut replies, is_on_reused } = match called.await {
        Ok(Ok(call)) => call,
        Ok(Err(status)) => {
            let fault = PickerFault::Stream(Box::new(status));
            return Ok(Outcome::Unreachable { fault, was_reused: false });
        }
        Err(_) => return Ok(Outcome::Failed(PickerFault::Timeout(patience))),
    };
    let mut state = State::new(body, offered);
    requests.send(first);
    let no_metadata = Metadata::default();
    let metadata = first.metadata_context.as_ref().unwrap_or(&no_metadata);
    // One timer for both: for as long as the body is held back, then for the picker's reply.
    let mut deadline = began + patience;
    let mut held_back_until = peer.skips_body().then(|| began + patience / HEAD_START);
    let mut timer = pin!(tokio::time::sleep_until(held_back_until.unwrap_or(deadline)));
    loop {
        let sends_body = state.wants_body && held_back_until.is_none();
        let piece = if sends_body { state.cursor.next(body, metadata) } else { None };
        let has_piece = piece.is_some();
        let reads_client = sends_body && !has_piece && !body.is_complete();
        let is_opening = replies.is_opening();
        tokio::select! {
            biased;
            reply = replies.next() => match reply {
                Some(Err(status)) => {
                    let fault = PickerFault::Stream(Box::new(status));
                    let was_reused = is_on_reused;
                    return Ok(if is_opening { Outcome::Unreachable { fault, was_reused } } else { Outcome::Failed(fault) });
                }
                None => {
                    body.drop_replacement();
                    return Ok(match state.endpoints {
                        Some(endpoints) => {
                            Outcome::Decided { endpoints, open: None, wants: Wants::Nothing }
                        }
                        None => Outcome::Failed(PickerFault::Ended),
                    });
                }
                Some(Ok(reply)) => {
                    if let Err(fault) = state.take(reply, headers, body)? {
                        body.drop_replacement();
                        return Ok(Outcome::Failed(fault));
                    }
                    if let Some(skips_body) = state.answer_to_headers {
                        peer.set_skips_body(skips_body);
                        held_back_until = None;
                    }
                    if state.is_settled() {
                        break;
                    }
                    timer.as_mut().reset(deadline);
                }
            },
            is_free = requests.free(), if has_piece || requests.is_pending() => match piece {
                Some(Piece { message, then }) if is_free => {
                    requests.send(&message);
                    state.cursor = then;
                    deadline = Instant::now() + patience;
                    timer.as_mut().reset(deadline);
                }
                // The picker reads no more; its reply or the stream's end says why.
                Some(_) => state.wants_body = false,
                None => {}
            },
            read = body.read_frame(), if reads_client => {
                read?;
                deadline = Instant::now() + patience;
                timer.as_mut().reset(deadline);
            },
            () = &mut timer, if !reads_client => match held_back_until.take() {
                Some(until) if until < deadline => timer.as_mut().reset(deadline),
                _ => {
                    body.drop_replacement();
                    return Ok(Outcome::Failed(PickerFault::Timeout(patience)));
                }
            },
        }
    }
    Ok(match state.endpoints {
        None => Outcome::Failed(PickerFault::Ended),
        Some(endpoints) => {
            let open = matches!(replies, Replies::Open(_)).then_some((requests, replies));
            Outcome::Decided { endpoints, open, wants: state.wants }
        }
    })
}

/// What the replies so far add up to.
#[derive(Debug)]
struct State {
    cursor: Cursor,
    /// The picker is still to be sent the body.
    wants_body: bool,
    endpoints: Option<Vec<SocketAddr>>,
    /// Once it has come: whether it says that no body is wanted.
    answer_to_headers: Option<bool>,
    /// Body replies that change nothing.
    unchanged: usize,
    body_settled: bool,
    wants: Wants,
}

impl State {
    fn new(body: &HeldBody, offered: Wants) -> Self {
        let is_empty = body.is_complete() && body.frames().is_empty();
        Self {
            cursor: Cursor::at_start(is_empty),
            wants_body: !is_empty,
            endpoints: None,
            answer_to_headers: None,
            unchanged: 0,
            body_settled: is_empty,
            wants: offered,
        }
    }

    /// The inner error is the picker's fault; the outer one ends the request.
    fn take(
        &mut self,
        reply: ProcessingResponse,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<Result<(), PickerFault>, Error> {
        if let Some(list) = reply.dynamic_metadata.as_ref().and_then(destination_in_metadata) {
            self.endpoints = Some(parse_endpoints(list));
        }
        if reply.dynamic_metadata.as_ref().is_some_and(leaves_response) || skips_response(&reply) {
            self.wants = Wants::Nothing;
        } else if leaves_response_body(&reply) {
            self.wants = self.wants.min(Wants::Headers);
        }
        let skips_body =
            reply.mode_override.as_ref().is_some_and(|mode| mode.request_body_mode() == BodySendMode::None);
        match reply.response {
            Some(Response::ImmediateResponse(reply)) => return Err(immediate(reply)),
            Some(Response::RequestHeaders(reply)) => {
                let verdict = match verdict(reply.response.as_ref()) {
                    Ok(verdict) => verdict,
                    Err(why) => return Ok(Err(PickerFault::Protocol(why))),
                };
                let skips_body = skips_body || verdict != Verdict::Continue;
                self.answer_to_headers = Some(skips_body);
                self.common(reply.response.as_ref(), headers);
                // Without its end the picker cannot have changed the body: it decided without it.
                let decided_early = self.endpoints.is_some() && !self.cursor.ended;
                let unchanged = self.cursor.ended && self.unchanged >= self.cursor.messages;
                if skips_body || decided_early || unchanged {
                    self.wants_body = false;
                    self.body_settled = true;
                }
                if let Verdict::Replace(instead) = verdict {
                    return Ok(self.replace(instead, body));
                }
            }
            Some(Response::RequestBody(reply)) => return Ok(self.body_reply(reply, headers, body)),
            // Replies to phases that have not begun mean nothing.
            _ => {}
        }
        Ok(Ok(()))
    }

    /// A picker may answer each piece at once, or hold all until its decision; it may send the body
    /// back piece by piece, or leave it unchanged by sending no mutation.
    fn body_reply(
        &mut self,
        reply: BodyResponse,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<(), PickerFault> {
        self.common(reply.response.as_ref(), headers);
        if let Ok(Verdict::Replace(instead)) = verdict(reply.response.as_ref()) {
            return self.replace(instead, body);
        }
        let mutation = reply.response.and_then(|common| common.body_mutation);
        let (piece, is_last) = match mutation.and_then(|BodyMutation { mutation }| mutation) {
            None => {
                self.unchanged += 1;
                self.body_settled |= self.answer_to_headers.is_some() && self.cursor.ended;
                return Ok(());
            }
            Some(Mutation::StreamedResponse(piece)) => (piece.body, piece.end_of_stream),
            Some(Mutation::Body(whole)) => (whole, true),
            Some(Mutation::ClearBody(_)) => return Ok(()),
        };
        body.hold_replacement(piece).map_err(|_| PickerFault::BodyTooLarge)?;
        if is_last && self.cursor.ended {
            body.use_replacement();
            self.body_settled = true;
        }
        Ok(())
    }

    /// Of the client's body nothing more is needed, by nobody.
    fn replace(&mut self, instead: Bytes, body: &mut HeldBody) -> Result<(), PickerFault> {
        body.drop_replacement();
        body.hold_replacement(instead).map_err(|_| PickerFault::BodyTooLarge)?;
        body.use_replacement();
        self.wants_body = false;
        self.body_settled = true;
        Ok(())
    }

    fn common(&mut self, common: Option<&CommonResponse>, headers: &mut HeaderMap) {
        let Some(common) = common else { return };
        if let Some(list) = destination_in_headers(common) {
            self.endpoints = Some(parse_endpoints(&list));
        }
        if let Some(mutation) = &common.header_mutation {
            mutate(headers, mutation);
        }
    }

    fn is_settled(&self) -> bool {
        self.answer_to_headers.is_some() && self.body_settled
    }
}
