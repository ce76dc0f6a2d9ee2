//! The exchange of one request with one replica of a picker, up to its decision.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use forebay_grpc::Outbox;
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, HeadersResponse, ProcessingResponse,
    body_mutation::Mutation, processing_response::Response,
};
use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

use super::channel::{Call, TakesPrompts};
use super::content::Content;
use super::error::{Error, PickerFault};
use super::message::Cursor;
use super::peers::Peer;
use super::prompt::SentPrompt;
use super::question::{Question, ResponseInterest};
use super::replies::Replies;
use super::reply::{
    BodyAction, body_action, destination_in_headers, destination_in_metadata, explanation, leaves_response,
    mutate, parse_endpoints, rejection, skips_response, skips_response_body, takes_prompts,
};
use super::wanted::Wanted;
use crate::hold::HeldBody;

/// Divides the picker timeout: maximum wait for the reply to the headers before the body is sent to a picker that
/// needed no body for the previous request.
///
/// Decisions take microseconds, but replies can be late when all cores are busy. Sending bodies that are not needed
/// would delay them further. The cost: one request is late by this time when a picker starts to need the body.
const BODY_DELAY_DIVISOR: u32 = 2;

/// Result of an exchange.
#[derive(Debug)]
pub(super) enum Outcome {
    Decided {
        endpoints: Vec<SocketAddr>,
        /// `None` if the picker has ended its side of the stream.
        open: Option<(Outbox, Replies)>,
        interest: ResponseInterest,
        /// The prompt, if it was sent instead of the body.
        prompt: Option<Box<SentPrompt>>,
    },
    /// The replica could not be reached, refused the stream, or did not reply at all. Another replica may be asked.
    Unreachable {
        fault: PickerFault,
        /// The stream was on a reused connection, which the replica may have closed at the same time. The same replica
        /// may be asked again.
        was_reused: bool,
    },
    Failed(PickerFault),
}

/// Asks `peer` for a decision. Errors come from the client's body or are the picker's own response. `limit`: maximum wait
/// for the picker. Waits for the client's body do not count. What is left of it is returned with the outcome.
pub(super) async fn ask(
    peer: &Peer,
    question: &mut Question<'_, '_>,
    mut limit: Duration,
) -> Result<(Outcome, Duration), Error> {
    let mut outcome = exchange(peer, question, &mut limit).await?;
    if matches!(outcome, Outcome::Unreachable { was_reused: true, .. }) {
        outcome = exchange(peer, question, &mut limit).await?;
    }
    if !matches!(outcome, Outcome::Decided { .. }) {
        // Another version of the picker may run when it is reachable again.
        peer.set_skips_body(false);
    }
    Ok((outcome, limit))
}

/// One exchange. Reduces `limit` by the time that the picker took.
async fn exchange(
    peer: &Peer,
    question: &mut Question<'_, '_>,
    limit: &mut Duration,
) -> Result<Outcome, Error> {
    let timeout = *limit;
    let mut deadline = Instant::now() + timeout;
    let outcome = match tokio::time::timeout_at(deadline, peer.channel().call()).await {
        Ok(Ok(call)) => {
            let takes_prompts = call.takes_prompts.clone();
            let outcome = exchange_until(&mut deadline, timeout, peer, call, question).await;
            if !matches!(outcome, Ok(Outcome::Decided { .. })) {
                takes_prompts.set(false);
            }
            outcome
        }
        Ok(Err(status)) => {
            let fault = PickerFault::Stream(Box::new(status));
            Ok(Outcome::Unreachable { fault, was_reused: false })
        }
        Err(_) => Ok(no_reply(timeout)),
    };
    *limit = deadline.saturating_duration_since(Instant::now());
    outcome
}

// Longer than the limit: the branches of the select share the timer and the state of the loop.
/// `deadline` is moved by the time that the client's body takes.
async fn exchange_until(
    deadline: &mut Instant,
    timeout: Duration,
    peer: &Peer,
    call: Call,
    question: &mut Question<'_, '_>,
) -> Result<Outcome, Error> {
    let start = *deadline - timeout;
    let Call { mut requests, mut replies, is_reused, takes_prompts } = call;
    let (first, mut content) = Content::start(question, takes_prompts.get());
    let Question { head, body, metadata, offered, wanted, .. } = question;
    let headers = &mut head.headers;
    let mut progress = Progress::new(body, *offered);
    let sent = requests.send(&first);
    // It has a copy of the head, which would be kept until the picker replies.
    drop(first);
    if let Err(status) = sent {
        return Ok(Outcome::Failed(PickerFault::Stream(Box::new(status))));
    }
    content.first_was_sent();
    // One timer for both: first for the delay of the body, then for the reply.
    let mut delay_until = content.is_body_delayed(peer).then(|| start + timeout / BODY_DELAY_DIVISOR);
    let mut timer = pin!(tokio::time::sleep_until(delay_until.unwrap_or(*deadline)));
    loop {
        let sends = progress.wants_body && delay_until.is_none();
        let next = if sends { content.next(&progress.cursor, body, metadata) } else { None };
        let has_next = next.is_some();
        let reads_client = sends && !has_next && content.needs_more(body);
        let is_opening = replies.is_opening();
        let read_start = reads_client.then(Instant::now);
        tokio::select! {
            biased;
            reply = replies.next() => {
                if let Some(Ok(reply)) = &reply {
                    peer.health().replied();
                    learn(reply, &takes_prompts, wanted);
                }
                if let Some(outcome) = progress.on_next(reply, is_opening, is_reused, headers, body)? {
                    return Ok(outcome);
                }
                if let Some(skips_body) = progress.headers_reply {
                    if content.is_body() {
                        peer.set_skips_body(skips_body);
                    }
                    delay_until = None;
                }
                if progress.is_complete() {
                    break;
                }
                timer.as_mut().reset(*deadline);
            },
            is_free = requests.free(), if has_next || requests.is_pending() => match next {
                Some(next) if is_free => {
                    if let Err(status) = content.send(next, &mut requests, &mut progress.cursor, body) {
                        return Ok(Outcome::Failed(PickerFault::Stream(Box::new(status))));
                    }
                }
                // The picker reads no more. Its reply or the end of the stream says why.
                Some(_) => progress.wants_body = false,
                None => {}
            },
            read = body.read_data(), if reads_client => {
                if let Some(data) = read? {
                    content.feed(&data);
                }
            },
            () = &mut timer, if !reads_client => match delay_until.take() {
                Some(until) if until < *deadline => timer.as_mut().reset(*deadline),
                _ if !progress.has_reply => return Ok(no_reply(timeout)),
                _ => {
                    body.drop_replacement();
                    return Ok(Outcome::Failed(PickerFault::Timeout(timeout)));
                }
            },
        }
        if let Some(read_start) = read_start {
            *deadline += read_start.elapsed();
            timer.as_mut().reset(*deadline);
        }
    }
    Ok(match progress.endpoints {
        None => Outcome::Failed(PickerFault::Ended),
        Some(endpoints) => {
            let open = matches!(replies, Replies::Open(_)).then_some((requests, replies));
            let prompt = content.into_prompt();
            Outcome::Decided { endpoints, open, interest: progress.interest, prompt }
        }
    })
}

/// A decision says whether the next request may come with its prompt in messages, and how it was made.
fn learn(reply: &ProcessingResponse, known: &TakesPrompts, wanted: &mut Wanted<'_>) {
    let metadata = reply.dynamic_metadata.as_ref();
    if matches!(reply.response, Some(Response::RequestHeaders(_))) {
        known.set(metadata.is_some_and(takes_prompts));
    }
    if wanted.explains
        && let Some(json) = metadata.and_then(explanation)
    {
        wanted.explanation = Some(json.to_owned());
    }
}

/// A replica that replied to nothing has not changed the request, so another one may be asked.
fn no_reply(timeout: Duration) -> Outcome {
    Outcome::Unreachable { fault: PickerFault::Timeout(timeout), was_reused: false }
}

/// State of an exchange.
#[derive(Debug)]
struct Progress {
    cursor: Cursor,
    /// The picker has replied, and may have changed the request.
    has_reply: bool,
    /// The picker is still to be sent the body.
    wants_body: bool,
    endpoints: Option<Vec<SocketAddr>>,
    /// The reply to the headers, once it has arrived: whether the picker needs no body.
    headers_reply: Option<bool>,
    /// Number of replies that leave their piece of the body unchanged.
    unchanged: usize,
    /// The body to send upstream is known.
    is_body_final: bool,
    interest: ResponseInterest,
}

impl Progress {
    fn new(body: &HeldBody, offered: ResponseInterest) -> Self {
        let is_empty = body.is_complete() && body.frames().is_empty();
        Self {
            cursor: Cursor::at_start(is_empty),
            has_reply: false,
            wants_body: !is_empty,
            endpoints: None,
            headers_reply: None,
            unchanged: 0,
            is_body_final: is_empty,
            interest: offered,
        }
    }

    /// Handles a reply, an error, or the end of the stream (`None`). Returns the outcome if the exchange has ended.
    fn on_next(
        &mut self,
        reply: Option<Result<ProcessingResponse, Status>>,
        is_opening: bool,
        was_reused: bool,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<Option<Outcome>, Error> {
        match reply {
            Some(Err(status)) => {
                let fault = PickerFault::Stream(Box::new(status));
                Ok(Some(if is_opening {
                    Outcome::Unreachable { fault, was_reused }
                } else {
                    Outcome::Failed(fault)
                }))
            }
            None => {
                body.drop_replacement();
                Ok(Some(match self.endpoints.take() {
                    Some(endpoints) => {
                        let interest = ResponseInterest::None;
                        Outcome::Decided { endpoints, open: None, interest, prompt: None }
                    }
                    None => Outcome::Failed(PickerFault::Ended),
                }))
            }
            Some(Ok(reply)) => Ok(self.on_reply(reply, headers, body)?.err().map(|fault| {
                body.drop_replacement();
                Outcome::Failed(fault)
            })),
        }
    }

    /// The outer error ends the request. The inner error is a fault of the picker.
    fn on_reply(
        &mut self,
        reply: ProcessingResponse,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<Result<(), PickerFault>, Error> {
        self.has_reply = true;
        if let Some(list) = reply.dynamic_metadata.as_ref().and_then(destination_in_metadata) {
            self.endpoints = Some(parse_endpoints(list));
        }
        if reply.dynamic_metadata.as_ref().is_some_and(leaves_response) || skips_response(&reply) {
            self.interest = ResponseInterest::None;
        } else if skips_response_body(&reply) {
            self.interest = self.interest.min(ResponseInterest::Headers);
        }
        let skips_body =
            reply.mode_override.as_ref().is_some_and(|mode| mode.request_body_mode() == BodySendMode::None);
        match reply.response {
            Some(Response::ImmediateResponse(reply)) => Err(Error::Rejected(rejection(reply))),
            Some(Response::RequestHeaders(reply)) => {
                Ok(self.on_headers_reply(&reply, skips_body, headers, body))
            }
            Some(Response::RequestBody(reply)) => Ok(self.on_body_reply(reply, headers, body)),
            // Replies to phases that have not started are ignored.
            _ => Ok(Ok(())),
        }
    }

    fn on_headers_reply(
        &mut self,
        reply: &HeadersResponse,
        skips_body: bool,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<(), PickerFault> {
        let action = body_action(reply.response.as_ref()).map_err(PickerFault::Protocol)?;
        let skips_body = skips_body || action != BodyAction::Continue;
        self.headers_reply = Some(skips_body);
        self.apply(reply.response.as_ref(), headers);
        // A picker that decides before the end of the body cannot change the body.
        let decided_early = self.endpoints.is_some() && !self.cursor.ended;
        let is_unchanged = self.cursor.ended && self.unchanged >= self.cursor.messages;
        if skips_body || decided_early || is_unchanged {
            self.wants_body = false;
            self.is_body_final = true;
        }
        match action {
            BodyAction::Replace(replacement) => self.replace(replacement, body),
            BodyAction::Continue | BodyAction::Keep => Ok(()),
        }
    }

    /// A picker may reply to each piece at once, or to all of them after its decision. It may send the body back piece
    /// by piece, or leave it unchanged by sending no mutation.
    fn on_body_reply(
        &mut self,
        reply: BodyResponse,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<(), PickerFault> {
        self.apply(reply.response.as_ref(), headers);
        if let Ok(BodyAction::Replace(replacement)) = body_action(reply.response.as_ref()) {
            return self.replace(replacement, body);
        }
        let mutation = reply.response.and_then(|common| common.body_mutation);
        let (piece, is_last) = match mutation.and_then(|BodyMutation { mutation }| mutation) {
            None => {
                self.unchanged += 1;
                self.is_body_final |= self.headers_reply.is_some() && self.cursor.ended;
                return Ok(());
            }
            Some(Mutation::StreamedResponse(piece)) => (piece.body, piece.end_of_stream),
            Some(Mutation::Body(whole)) => (whole, true),
            Some(Mutation::ClearBody(_)) => return Ok(()),
        };
        body.hold_replacement(piece).map_err(|_| PickerFault::BodyTooLarge)?;
        if is_last && self.cursor.ended {
            body.use_replacement();
            self.is_body_final = true;
        }
        Ok(())
    }

    /// Replaces the whole body. The rest of the client's body is not read.
    fn replace(&mut self, replacement: Bytes, body: &mut HeldBody) -> Result<(), PickerFault> {
        body.drop_replacement();
        body.hold_replacement(replacement).map_err(|_| PickerFault::BodyTooLarge)?;
        body.use_replacement();
        self.wants_body = false;
        self.is_body_final = true;
        Ok(())
    }

    /// Applies the header mutations of a reply.
    fn apply(&mut self, common: Option<&CommonResponse>, headers: &mut HeaderMap) {
        let Some(common) = common else { return };
        if let Some(list) = destination_in_headers(common) {
            self.endpoints = Some(parse_endpoints(&list));
        }
        if let Some(mutation) = &common.header_mutation {
            mutate(headers, mutation);
        }
    }

    fn is_complete(&self) -> bool {
        self.headers_reply.is_some() && self.is_body_final
    }
}
