//! The ext_proc service: one [`Session`] per stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    gateway::Gateway,
    session::{Next, Session},
};
use crate::{Error, metrics::Metrics, schedule::Scheduler};
use forebay_grpc::names::TAKES_ENDPOINT_LIST;
use forebay_grpc::proto::ProcessingRequest;
use forebay_grpc::{CONTENT_TYPE, Inbox, Outbox, PROCESS, STATUS};
use forebay_service::{
    incoming::{Connection, Peer},
    shares::Shares,
};

/// Maximum size of the headers of a stream. The headers of the HTTP request are in messages.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;
/// Flow-control window of streams and connections: a connection whose streams do not read holds as much.
const WINDOW_BYTES: u32 = 512 << 10;
/// Timeout of the first message. A gateway opens a stream to send the request headers.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of all messages that are incomplete, or whose replies are not sent.
const MESSAGE_BUDGET_BYTES: usize = 128 << 20;
/// A gateway can hold this many times as much as is free: one alone holds three quarters of a limit.
const SHARE_WEIGHT: usize = 3;

/// The ext_proc service of one pool.
#[derive(Debug)]
pub struct ExtProc {
    scheduler: Arc<Scheduler>,
    metrics: Arc<Metrics>,
    max_streams: usize,
    max_message_bytes: usize,
    streams: Arc<Shares>,
    message_bytes: Arc<Shares>,
}

impl ExtProc {
    /// Limits: `max_streams` concurrent requests over all connections, of which one gateway gets three quarters at most,
    /// and the size of a message from a gateway.
    pub fn new(
        scheduler: Arc<Scheduler>,
        metrics: Arc<Metrics>,
        max_streams: u32,
        max_message_bytes: usize,
    ) -> Self {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX);
        let streams = Shares::new(max_streams, SHARE_WEIGHT);
        let message_bytes = Shares::new(MESSAGE_BUDGET_BYTES.max(max_message_bytes), SHARE_WEIGHT);
        Self { scheduler, metrics, max_streams, max_message_bytes, streams, message_bytes }
    }

    /// Serves the connection of one gateway until it is closed. After `draining`, accepts no new streams and returns when
    /// the requests in flight have ended.
    ///
    /// # Errors
    ///
    /// The connection failed.
    pub async fn serve(&self, connection: Connection, draining: &CancellationToken) -> Result<(), h2::Error> {
        let peer = connection.peer();
        let gateway = Arc::new(Gateway::new(Arc::clone(&self.message_bytes), peer.address()));
        let mut connection = h2::server::Builder::new()
            // Gateways send all requests on one connection, one stream per request.
            .max_concurrent_streams(u32::try_from(self.max_streams).unwrap_or(u32::MAX))
            // Many clients that disconnect at once reset many streams. The default limit would close the connection,
            // with the requests of all other clients.
            .max_pending_accept_reset_streams(self.max_streams)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(connection)
            .await?;
        let mut streams = FuturesUnordered::new();
        let mut draining = std::pin::pin!(draining.cancelled());
        let mut is_draining = false;
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    None => return Ok(()),
                    Some(Err(error)) => return Err(error),
                    Some(Ok((request, respond))) => {
                        streams.push(self.process(request, respond, &peer, Arc::clone(&gateway)));
                    }
                },
                Some(()) = streams.next(), if !streams.is_empty() => {}
                () = &mut draining, if !is_draining => {
                    connection.graceful_shutdown();
                    is_draining = true;
                }
            }
        }
    }

    async fn process(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        peer: &Peer,
        gateway: Arc<Gateway>,
    ) {
        if let Err(rejection) = check(&request) {
            // Fails only if the stream was reset.
            let _ = respond.send_response(rejection, true);
            return;
        }
        // A stream error instead of an ImmediateResponse, so that the failure mode of the pool applies.
        let Some(_share) = self.streams.take(peer.address(), 1) else {
            let error = Error::TooManyStreams(self.max_streams);
            self.metrics.count_rejected(error.code());
            let _ = respond.send_response(Status::resource_exhausted(error.to_string()).into_http(), true);
            return;
        };
        let _in_use = peer.open_request();
        // The session is dropped when the stream ends in any way, which releases its pick.
        let _open_stream = self.metrics.open_stream();
        let takes_list = request.headers().contains_key(TAKES_ENDPOINT_LIST);
        let mut session =
            Session::new(self.scheduler.clone(), self.metrics.clone(), gateway.clone(), takes_list);
        let inbox = Inbox::of_client(request.into_body(), self.max_message_bytes);
        let mut inbox = inbox.with_budget(gateway);
        let mut response = Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        let Ok(outbox) = respond.send_response(response, false) else { return };
        let mut outbox = Outbox::new(outbox);
        let status = converse(&mut session, &mut inbox, &mut outbox).await;
        if let Some(status) = status
            && outbox.free().await
        {
            outbox.end_with(trailers(&status));
        }
    }
}

/// Exchanges messages until the stream ends. Reads the next message only after all replies were sent, so that memory is
/// bounded when the gateway reads slowly. Returns the status to send, or `None` if the gateway reset the stream.
async fn converse(
    session: &mut Session,
    inbox: &mut Inbox<ProcessingRequest>,
    outbox: &mut Outbox,
) -> Option<Status> {
    let mut replies = VecDeque::new();
    let mut is_first = true;
    loop {
        let received = if is_first {
            let late = || Status::deadline_exceeded(format!("no message within {FIRST_MESSAGE_TIMEOUT:?}"));
            time::timeout(FIRST_MESSAGE_TIMEOUT, inbox.message()).await.unwrap_or_else(|_| Err(late()))
        } else {
            inbox.message().await
        };
        is_first = false;
        let message = match received {
            Ok(Some(message)) => message,
            // The gateway closed its side.
            Ok(None) => {
                session.on_end();
                return Some(Status::ok(""));
            }
            Err(status) => return Some(status),
        };
        let next = session.on_message(message, &mut replies);
        for reply in replies.drain(..) {
            if !outbox.free().await {
                return None;
            }
            if let Err(status) = outbox.send(&reply) {
                return Some(status);
            }
        }
        match next {
            Ok(Next::Continue) => {}
            Ok(Next::End) => return Some(Status::ok("")),
            Err(status) => return Some(status),
        }
    }
}

/// Checks that the request calls the method of ext_proc (gRPC over HTTP2, "Requests"). The error is the response.
fn check(request: &Request<RecvStream>) -> Result<(), Response<()>> {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes());
    if request.method() != Method::POST || !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(response);
    }
    if request.uri().path() != PROCESS {
        return Err(Status::unimplemented(format!("unknown method; only {PROCESS} is served")).into_http());
    }
    Ok(())
}

fn trailers(status: &Status) -> HeaderMap {
    if status.code() == tonic::Code::Ok {
        return [(STATUS, HeaderValue::from_static("0"))].into_iter().collect();
    }
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}
