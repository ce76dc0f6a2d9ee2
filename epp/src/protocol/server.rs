//! The ext_proc service: one [`Session`] per stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    gateway::Gateway,
    metadata,
    session::{Announced, Next, ObeyedHeaders, Session},
};
use crate::{
    Error,
    metrics::Metrics,
    pools::{Asked, Directory},
};
use forebay_grpc::names::{PROMPT_VERSION, SENDS_PROMPT, TAKES_ENDPOINT_LIST};
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
/// Bound of the overhead of small DATA frames that are not read yet: 256 bytes less their content for each. The default, half
/// a window, would close the connection of a gateway that cancels some thousand requests at once.
const SMALL_FRAMES_BYTES: usize = 1 << 20;
/// Timeout of the first message. A gateway opens a stream to send the request headers.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of all messages that are incomplete, or whose replies are not sent.
const MESSAGE_BUDGET_BYTES: usize = 128 << 20;
/// A gateway can hold this many times as much as is free: one alone holds three quarters of a limit.
const SHARE_WEIGHT: usize = 3;

/// The ext_proc service of the pools of a process.
#[derive(Debug)]
pub struct ExtProc {
    pools: Arc<ArcSwap<Directory>>,
    /// Of streams whose pool is not known yet.
    metrics: Arc<Metrics>,
    max_streams: usize,
    max_message_bytes: usize,
    obeyed: ObeyedHeaders,
    streams: Arc<Shares>,
    message_bytes: Arc<Shares>,
}

impl ExtProc {
    /// `metrics`: of streams whose pool is not known yet. Limits: `max_streams` concurrent requests over all connections, of which one gateway gets three quarters at most,
    /// and the size of a message from a gateway.
    pub fn new(
        pools: Arc<ArcSwap<Directory>>,
        metrics: Arc<Metrics>,
        max_streams: u32,
        max_message_bytes: usize,
        obeyed: ObeyedHeaders,
    ) -> Self {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX);
        let streams = Shares::new(max_streams, SHARE_WEIGHT);
        let message_bytes = Shares::new(MESSAGE_BUDGET_BYTES.max(max_message_bytes), SHARE_WEIGHT);
        Self { pools, metrics, max_streams, max_message_bytes, obeyed, streams, message_bytes }
    }

    /// Serves the connection of one gateway, accepted on `port`, until it is closed. After `draining`, accepts no new streams
    /// and returns when the requests in flight have ended.
    ///
    /// # Errors
    ///
    /// The connection failed.
    pub async fn serve(
        &self,
        connection: Connection,
        port: u16,
        draining: &CancellationToken,
    ) -> Result<(), h2::Error> {
        let peer = connection.peer();
        let gateway = Arc::new(Gateway::new(Arc::clone(&self.message_bytes), peer.address()));
        let mut connection = h2::server::Builder::new()
            // Gateways send all requests on one connection, one stream per request.
            .max_concurrent_streams(u32::try_from(self.max_streams).unwrap_or(u32::MAX))
            // Many clients that disconnect at once reset many streams. The default limit would close the connection,
            // with the requests of all other clients.
            .max_pending_accept_reset_streams(self.max_streams)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .data_frame_budget(SMALL_FRAMES_BYTES)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(connection)
            .await?;
        let mut streams = FuturesUnordered::new();
        let mut draining = std::pin::pin!(draining.cancelled());
        let mut is_draining = false;
        loop {
            // Not in order: of many requests at once, the first are answered before the last are accepted.
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    None => return Ok(()),
                    Some(Err(error)) => return Err(error),
                    Some(Ok((request, respond))) => {
                        streams.push(self.process(request, respond, port, &peer, Arc::clone(&gateway)));
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
        port: u16,
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
        let mut open_stream = self.metrics.open_stream();
        let (head, body) = request.into_parts();
        let inbox = Inbox::of_client(body, self.max_message_bytes);
        let mut inbox = inbox.with_budget(gateway.clone());
        let mut response = Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        let Ok(outbox) = respond.send_response(response, false) else { return };
        let mut outbox = Outbox::new(outbox);
        let status = match first_message(&mut inbox).await {
            Ok(None) => Some(Status::ok("")),
            Err(status) => Some(status),
            Ok(Some(first)) => match self.session(&head.uri, port, &first, announced(&head.headers), gateway)
            {
                Err(status) => Some(status),
                Ok(mut session) => {
                    open_stream.move_to(session.metrics());
                    converse(&mut session, first, &mut inbox, &mut outbox).await
                }
            },
        };
        if let Some(status) = status
            && outbox.free().await
        {
            outbox.end_with(trailers(&status));
        }
    }

    /// The session of a stream with this first message, in the pool that the gateway asks for. Without one, a status, so that
    /// the failure mode of the gateway's pool applies.
    fn session(
        &self,
        uri: &Uri,
        port: u16,
        first: &ProcessingRequest,
        announced: Announced,
        gateway: Arc<Gateway>,
    ) -> Result<Session, Status> {
        let asked = Asked {
            pool: first.metadata_context.as_ref().and_then(metadata::pool),
            authority: uri.authority().map(|authority| authority.as_str()),
            port,
        };
        let directory = self.pools.load();
        let served = directory.find(&asked).map_err(|error| {
            self.metrics.count_rejected(error.code());
            let code = match error {
                Error::NotLoaded => Code::Unavailable,
                Error::AmbiguousService { .. } => Code::FailedPrecondition,
                _ => Code::NotFound,
            };
            Status::new(code, error.to_string())
        })?;
        let (scheduler, metrics) = (served.scheduler.clone(), served.metrics.clone());
        Ok(Session::new(scheduler, metrics, gateway, announced, self.obeyed))
    }
}

/// What the gateway says about a stream.
fn announced(headers: &HeaderMap) -> Announced {
    let version = headers.get(SENDS_PROMPT).and_then(|value| value.to_str().ok()?.parse().ok());
    Announced {
        takes_list: headers.contains_key(TAKES_ENDPOINT_LIST),
        sends_prompt: version == Some(PROMPT_VERSION),
    }
}

async fn first_message(inbox: &mut Inbox<ProcessingRequest>) -> Result<Option<ProcessingRequest>, Status> {
    let late = || Status::deadline_exceeded(format!("no message within {FIRST_MESSAGE_TIMEOUT:?}"));
    time::timeout(FIRST_MESSAGE_TIMEOUT, inbox.message()).await.unwrap_or_else(|_| Err(late()))
}

/// Exchanges messages until the stream ends. Reads the next message only after all replies were sent, so that memory is
/// bounded when the gateway reads slowly. Returns the status to send, or `None` if the gateway reset the stream.
async fn converse(
    session: &mut Session,
    first: ProcessingRequest,
    inbox: &mut Inbox<ProcessingRequest>,
    outbox: &mut Outbox,
) -> Option<Status> {
    let mut replies = VecDeque::new();
    let mut message = first;
    loop {
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
        message = match inbox.message().await {
            Ok(Some(message)) => message,
            // The gateway closed its side.
            Ok(None) => {
                session.on_end();
                return Some(Status::ok(""));
            }
            Err(status) => return Some(status),
        };
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
    if status.code() == Code::Ok {
        return [(STATUS, HeaderValue::from_static("0"))].into_iter().collect();
    }
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}
