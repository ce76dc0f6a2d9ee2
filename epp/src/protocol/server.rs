//! The ext_proc service: one [`Session`] for each stream.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::session::{Next, Session};
use crate::{Error, observe::Metrics, schedule::Scheduler};
use forebay_grpc::names::TAKES_ENDPOINT_LIST;
use forebay_grpc::proto::ProcessingRequest;
use forebay_grpc::{CONTENT_TYPE, Inbox, Outbox, PROCESS, STATUS, WINDOW_BYTES};

/// Of a stream's headers; the request's own headers are in messages.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;

#[derive(Debug)]
pub struct ExtProc {
    scheduler: Arc<Scheduler>,
    metrics: Arc<Metrics>,
    max_streams: usize,
    max_message_bytes: usize,
    streams: Semaphore,
}

impl ExtProc {
    /// At most `max_streams` requests are open at once, over all connections.
    pub fn new(
        scheduler: Arc<Scheduler>,
        metrics: Arc<Metrics>,
        max_streams: u32,
        max_message_bytes: usize,
    ) -> Self {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let streams = Semaphore::new(max_streams);
        Self { scheduler, metrics, max_streams, max_message_bytes, streams }
    }

    /// Serves one gateway until it leaves; after `ending`, until its open requests have ended.
    pub async fn serve(
        &self,
        connection: impl AsyncRead + AsyncWrite + Unpin,
        ending: &CancellationToken,
    ) -> Result<(), h2::Error> {
        let mut connection = h2::server::Builder::new()
            // A proxy has one stream for each request, all on one connection.
            .max_concurrent_streams(u32::try_from(self.max_streams).unwrap_or(u32::MAX))
            // Clients that leave all at once are no attack, and the connection has the requests of all others.
            .max_pending_accept_reset_streams(self.max_streams)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(connection)
            .await?;
        let mut streams = FuturesUnordered::new();
        let mut ending = std::pin::pin!(ending.cancelled());
        let mut is_ending = false;
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    None => return Ok(()),
                    Some(Err(error)) => return Err(error),
                    Some(Ok((request, respond))) => streams.push(self.process(request, respond)),
                },
                Some(()) = streams.next(), if !streams.is_empty() => {}
                () = &mut ending, if !is_ending => {
                    connection.graceful_shutdown();
                    is_ending = true;
                }
            }
        }
    }

    async fn process(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if let Err(refusal) = check(&request) {
            // A stream that is gone needs no answer.
            let _ = respond.send_response(refusal, true);
            return;
        }
        // An error of the stream, not an answer to the client: the pool's failure
        // mode shall decide what an overloaded picker means.
        let Ok(_permit) = self.streams.try_acquire() else {
            let error = Error::TooManyStreams(self.max_streams);
            self.metrics.refused(&error);
            let _ = respond.send_response(Status::resource_exhausted(error.to_string()).into_http(), true);
            return;
        };
        // Everything a stream holds. Dropped when the stream ends, however that happens, and the pick in it is
        // released.
        let _counted = self.metrics.open_stream();
        let takes_list = request.headers().contains_key(TAKES_ENDPOINT_LIST);
        let mut session = Session::new(self.scheduler.clone(), self.metrics.clone(), takes_list);
        let mut inbox = Inbox::of_client(request.into_body(), self.max_message_bytes);
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

/// Reads on only when all replies are taken, so a slow gateway holds back
/// itself and nothing piles up here. Nothing if there is nobody to tell.
async fn converse(
    session: &mut Session,
    inbox: &mut Inbox<ProcessingRequest>,
    outbox: &mut Outbox,
) -> Option<Status> {
    let mut replies = VecDeque::new();
    loop {
        let message = match inbox.message().await {
            Ok(Some(message)) => message,
            // The gateway has said all.
            Ok(None) => return Some(Status::ok("")),
            Err(status) => return Some(status),
        };
        let next = session.on_message(message, &mut replies);
        for reply in replies.drain(..) {
            if !outbox.free().await {
                return None;
            }
            outbox.send(&reply);
        }
        match next {
            Ok(Next::Continue) => {}
            Ok(Next::End) => return Some(Status::ok("")),
            Err(status) => return Some(status),
        }
    }
}

/// The answer to what is no call of the method.
fn check(request: &Request<RecvStream>) -> Result<(), Response<()>> {
    let of_type = |value: &HeaderValue| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes());
    if request.method() != Method::POST || !request.headers().get(header::CONTENT_TYPE).is_some_and(of_type) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(response);
    }
    if request.uri().path() != PROCESS {
        return Err(Status::unimplemented(format!("there is only {PROCESS} here")).into_http());
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
