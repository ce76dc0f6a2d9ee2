use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use prost::Message;
use tonic::Status;

use crate::decoder::{Decoder, MessageBudget};
use crate::{status_in, status_of};

/// Receives messages of type `M` from one stream.
#[derive(Debug)]
pub struct Inbox<M> {
    stream: RecvStream,
    decoder: Decoder,
    /// Whether the stream must end with a status in its trailers. Servers send one.
    expects_status: bool,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Inbox<M> {
    /// For the messages of a client. A message longer than `max_message_bytes` is an error.
    pub fn of_client(stream: RecvStream, max_message_bytes: usize) -> Self {
        Self::new(stream, max_message_bytes, false)
    }

    /// For the messages of a server, which end with a status. A message longer than `max_message_bytes` is an error.
    pub fn of_server(stream: RecvStream, max_message_bytes: usize) -> Self {
        Self::new(stream, max_message_bytes, true)
    }

    /// Counts messages in `budget`, each until the next one is polled. A message over the budget is an error
    /// (`RESOURCE_EXHAUSTED`).
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<dyn MessageBudget>) -> Self {
        self.decoder = self.decoder.with_budget(budget);
        self
    }

    fn new(stream: RecvStream, max_message_bytes: usize, expects_status: bool) -> Self {
        Self { stream, decoder: Decoder::new(max_message_bytes), expects_status, messages: PhantomData }
    }

    /// The next message. `None` after a regular end of the stream.
    ///
    /// # Errors
    ///
    /// The status that the server sent, the HTTP/2 error, or a violation by the sender: compression (`UNIMPLEMENTED`), a
    /// message over the limit (`OUT_OF_RANGE`) or the budget (`RESOURCE_EXHAUSTED`), an incomplete or undecodable message (`INTERNAL`), no status (`UNKNOWN`).
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<M>, Status>> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                let message = M::decode(message);
                return Poll::Ready(
                    message
                        .map(Some)
                        .map_err(|error| Status::internal(format!("cannot decode a message: {error}"))),
                );
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Flow control is not the bound here: received bytes are consumed at once, and the decoder
                    // limits what is kept.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.decoder.push(data);
                }
                Some(Err(error)) => return Poll::Ready(Err(status_of(&error))),
                None if self.decoder.is_inside_message() => {
                    return Poll::Ready(Err(Status::internal("the stream ended inside a message")));
                }
                None if self.expects_status => {
                    let trailers =
                        ready!(self.stream.poll_trailers(cx)).map_err(|error| status_of(&error))?;
                    let status = trailers.as_ref().and_then(status_in);
                    let status =
                        status.unwrap_or_else(|| Status::unknown("the stream ended without a status"));
                    return Poll::Ready(if status.code() == tonic::Code::Ok {
                        Ok(None)
                    } else {
                        Err(status)
                    });
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// See [`Inbox::poll_message`]. Cancel safe.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        poll_fn(|cx| self.poll_message(cx)).await
    }
}
