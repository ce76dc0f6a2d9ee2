use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::RecvStream;
use prost::Message;
use tonic::Status;

use crate::prefix::{PREFIX_BYTES, UNCOMPRESSED, message_length};
use crate::{status_in, status_of};

/// Receives messages of type `M` from one stream.
#[derive(Debug)]
pub struct Inbox<M> {
    stream: RecvStream,
    /// Received bytes, from the start of a message.
    input: Bytes,
    /// The start of an incomplete message.
    partial: BytesMut,
    max_message_bytes: usize,
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

    fn new(stream: RecvStream, max_message_bytes: usize, expects_status: bool) -> Self {
        Self {
            stream,
            input: Bytes::new(),
            partial: BytesMut::new(),
            max_message_bytes,
            expects_status,
            messages: PhantomData,
        }
    }

    /// The next message. `None` after a regular end of the stream.
    ///
    /// # Errors
    ///
    /// The status that the server sent, the HTTP/2 error, or a violation by the sender: compression (`UNIMPLEMENTED`), a
    /// message over the limit (`OUT_OF_RANGE`), an incomplete or undecodable message (`INTERNAL`), no status (`UNKNOWN`).
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<M>, Status>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Flow control is not the bound here: received bytes are consumed at once, and
                    // `max_message_bytes` limits what is kept.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.append(data);
                }
                Some(Err(error)) => return Poll::Ready(Err(status_of(&error))),
                None if !self.partial.is_empty() => {
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

    fn append(&mut self, data: Bytes) {
        if self.partial.is_empty() {
            self.input = data;
            return;
        }
        self.partial.extend_from_slice(&data);
        if message_length(&self.partial).is_some_and(|length| self.partial.len() >= PREFIX_BYTES + length) {
            self.input = self.partial.split().freeze();
        }
    }

    fn take_message(&mut self) -> Result<Option<M>, Status> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let length = message_length(&self.input);
        if self.input[0] != UNCOMPRESSED {
            return Err(Status::unimplemented(
                "compressed messages are not supported; send uncompressed messages",
            ));
        }
        if let Some(length) = length.filter(|length| *length > self.max_message_bytes) {
            let limit = self.max_message_bytes;
            let text = format!("message of {length} bytes exceeds the limit of {limit} bytes");
            return Err(Status::out_of_range(text));
        }
        match length {
            Some(length) if self.input.len() >= PREFIX_BYTES + length => {
                self.input.advance(PREFIX_BYTES);
                let message = M::decode(self.input.split_to(length));
                message
                    .map(Some)
                    .map_err(|error| Status::internal(format!("cannot decode a message: {error}")))
            }
            _ => {
                self.partial.reserve(length.map_or(PREFIX_BYTES, |length| PREFIX_BYTES + length));
                self.partial.extend_from_slice(&std::mem::take(&mut self.input));
                Ok(None)
            }
        }
    }
}
