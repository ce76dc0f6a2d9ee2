use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_epp::protocol::proto::{ProcessingRequest, ProcessingResponse};
use forebay_epp::schedule::Pick;
use http::response;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use super::message::response_headers;

/// How long a picker may take to end its side of a finished stream.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// Most finished streams that wait for that; more are reset.
const MAX_CLOSING: usize = 4096;

/// A decision's hold on its picker, which counts the request as long as this lives.
#[derive(Debug)]
pub(crate) enum Session {
    Stream(Stream),
    InProcess(Pick),
}

impl Session {
    /// Tells the picker who answered.
    pub(crate) fn answered(&mut self, head: &response::Parts, served: SocketAddr, end_of_stream: bool) {
        match self {
            Self::Stream(stream) => stream.answered(head, served, end_of_stream),
            Self::InProcess(pick) => pick.served_by(served),
        }
    }

    /// The response has ended.
    pub(crate) fn finish(self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            Self::InProcess(pick) => drop(pick),
        }
    }
}

/// The stream to a picker after its decision. It stays open until the response has ended, which is
/// how a picker knows what is in flight; dropped, it is reset.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<ProcessingRequest>,
    replies: Box<Streaming<ProcessingResponse>>,
    closing: Closing,
}

impl Stream {
    pub(super) fn new(
        requests: mpsc::Sender<ProcessingRequest>,
        replies: Box<Streaming<ProcessingResponse>>,
        closing: Closing,
    ) -> Self {
        Self { requests, replies, closing }
    }

    /// A picker that does not read is not waited for.
    fn answered(&self, head: &response::Parts, served: SocketAddr, end_of_stream: bool) {
        if self.requests.try_send(response_headers(head, served, end_of_stream)).is_err() {
            tracing::debug!("the endpoint picker's stream has no room for the response headers");
        }
    }

    /// What was sent reaches the picker before the stream's end does.
    fn finish(self) {
        let Self { requests, mut replies, closing } = self;
        drop(requests);
        let Ok(place) = closing.places.try_acquire_owned() else { return };
        closing.tasks.spawn(async move {
            let until_end = async { while let Ok(Some(_)) = replies.message().await {} };
            // A picker that does not end its side in time gets a reset from the drop.
            drop(tokio::time::timeout(CLOSING_TIME, until_end).await);
            drop(place);
        });
    }
}

/// Streams that are finished and wait for the picker's end.
#[derive(Clone, Debug)]
pub(super) struct Closing {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Closing {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_CLOSING)), tasks }
    }
}
