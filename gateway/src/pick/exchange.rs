//! One request's conversation with one replica of a picker, up to its decision.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use forebay_epp::protocol::TAKES_ENDPOINT_LIST;
use forebay_epp::protocol::proto::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, ProcessingRequest, ProcessingResponse,
    body_mutation::Mutation, external_processor_client::ExternalProcessorClient,
    processing_response::Response,
};
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::message::{Cursor, Piece};
use super::peers::Peer;
use super::reply::{
    Verdict, destination_in_headers, destination_in_metadata, immediate, leaves_response,
    leaves_response_body, mutate, parse_endpoints, skips_response, verdict,
};
use crate::hold::HeldBody;
use crate::{Error, PickerFault};

/// Messages that may wait for the picker to read them.
const QUEUE: usize = 8;
/// How long the body waits for the answer to the headers when a picker is likely to want no body. A
/// decision takes microseconds; one that needs the body is late by no more than this, and only once.
const HEAD_START: Duration = Duration::from_millis(5);
/// Largest reply taken.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// How a conversation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Decided {
        endpoints: Vec<SocketAddr>,
        /// Nothing if the picker has ended its side.
        open: Option<(mpsc::Sender<ProcessingRequest>, Box<Streaming<ProcessingResponse>>)>,
        wants: Wants,
    },
    /// The replica could not be reached or refused the stream: another may be asked.
    Unreachable(PickerFault),
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
    first: ProcessingRequest,
    headers: &mut HeaderMap,
    body: &mut HeldBody,
    patience: Duration,
    offered: Wants,
) -> Result<Outcome, Error> {
    let outcome = converse(peer, first, headers, body, patience, offered).await?;
    if !matches!(outcome, Outcome::Decided { .. }) {
        // Another program may be there when it can be reached again.
        peer.set_skips_body(false);
    }
    Ok(outcome)
}

async fn converse(
    peer: &Peer,
    first: ProcessingRequest,
    headers: &mut HeaderMap,
    body: &mut HeldBody,
    patience: Duration,
    offered: Wants,
) -> Result<Outcome, Error> {
    let (requests, receiver) = mpsc::channel(QUEUE);
    let mut replies = Replies::open(peer.channel(), receiver);
    let mut state = State::new(body, offered);
    let metadata = first.metadata_context.clone().unwrap_or_default();
    // The queue is empty: there is room.
    let _ = requests.try_send(first);
    let mut deadline = pin!(tokio::time::sleep(patience));
    let mut head_start = pin!(tokio::time::sleep(HEAD_START));
    let mut holds_back = peer.skips_body();
    loop {
        let sends_body = state.wants_body && !holds_back;
        let piece = if sends_body { state.cursor.next(body, &metadata) } else { None };
        let has_piece = piece.is_some();
        let reads_client = sends_body && !has_piece && !body.is_complete();
        tokio::select! {
            biased;
            reply = replies.next() => match reply {
                Err(status) if replies.is_open() => {
                    return Ok(Outcome::Failed(PickerFault::Stream(Box::new(status))));
                }
                Err(status) => return Ok(Outcome::Unreachable(PickerFault::Stream(Box::new(status)))),
                Ok(None) => {
                    body.drop_replacement();
                    return Ok(match state.endpoints {
                        Some(endpoints) => {
                            Outcome::Decided { endpoints, open: None, wants: Wants::Nothing }
                        }
                        None => Outcome::Failed(PickerFault::Ended),
                    });
                }
                Ok(Some(reply)) => {
                    if let Err(fault) = state.take(reply, headers, body)? {
                        body.drop_replacement();
                        return Ok(Outcome::Failed(fault));
                    }
                    if let Some(skips_body) = state.answer_to_headers {
                        peer.set_skips_body(skips_body);
                        holds_back = false;
                    }
                    if state.is_settled() {
                        break;
                    }
                }
            },
            () = &mut head_start, if holds_back => holds_back = false,
            permit = requests.reserve(), if has_piece => match (permit, piece) {
                (Ok(permit), Some(Piece { message, then })) => {
                    permit.send(message);
                    state.cursor = then;
                    deadline.as_mut().reset(Instant::now() + patience);
                }
                // The picker reads no more; its reply or the stream's end says why.
                _ => state.wants_body = false,
            },
            read = body.read_frame(), if reads_client => {
                read?;
                deadline.as_mut().reset(Instant::now() + patience);
            },
            () = &mut deadline, if !reads_client => {
                body.drop_replacement();
                return Ok(Outcome::Failed(PickerFault::Timeout(patience)));
            },
        }
    }
    Ok(match state.endpoints {
        None => Outcome::Failed(PickerFault::Ended),
        Some(endpoints) => {
            let open = replies.into_open().map(|open| (requests, open));
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

/// The picker's side of the stream. Servers may send nothing, not even their headers, before their
/// first reply, so opening it is part of waiting for that.
enum Replies {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<ProcessingResponse>, Status>> + Send>>),
    Open(Box<Streaming<ProcessingResponse>>),
}

impl Replies {
    fn open(channel: Channel, receiver: mpsc::Receiver<ProcessingRequest>) -> Self {
        Self::Opening(Box::pin(async move {
            let mut client = ExternalProcessorClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
            let mut request = Request::new(ReceiverStream::new(receiver));
            request.metadata_mut().insert(TAKES_ENDPOINT_LIST, MetadataValue::from_static("1"));
            Ok(client.process(request).await?.into_inner())
        }))
    }

    /// Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        if let Self::Opening(opening) = self {
            *self = Self::Open(Box::new(opening.await?));
        }
        match self {
            Self::Open(replies) => replies.message().await,
            Self::Opening(_) => Ok(None),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn into_open(self) -> Option<Box<Streaming<ProcessingResponse>>> {
        match self {
            Self::Open(replies) => Some(replies),
            Self::Opening(_) => None,
        }
    }
}
