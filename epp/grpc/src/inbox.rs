use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::RecvStream;
use prost::Message;
use tonic::Status;

use super::{PREFIX_BYTES, status_in, status_of};

/// Where messages come from.
#[derive(Debug)]
pub struct Inbox<M> {
    stream: RecvStream,
    /// Begins with a message.
    input: Bytes,
    /// A message of which more has to come.
    partial: BytesMut,
    max_message_bytes: usize,
    /// Whether the other side ends with a status: servers do.
    has_status: bool,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Inbox<M> {
    /// What a client sends.
    pub fn of_client(stream: RecvStream, max_message_bytes: usize) -> Self {
        Self::new(stream, max_message_bytes, false)
    }

    /// What a server sends.
    pub fn of_server(stream: RecvStream, max_message_bytes: usize) -> Self {
        Self::new(stream, max_message_bytes, true)
    }

    fn new(stream: RecvStream, max_message_bytes: usize, has_status: bool) -> Self {
        Self {
            stream,
            input: Bytes::new(),
            partial: BytesMut::new(),
            max_message_bytes,
            has_status,
            messages: PhantomData,
        }
    }

    /// The next message; nothing at the end. An error is how the other side, or the connection, ended the stream,
    /// or what is wrong with what came.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<M>, Status>> {
        loop {
            if let Some(message) = self.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What comes is taken at once, and a message has a limit: that is what bounds this.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.append(data);
                }
                Some(Err(error)) => return Poll::Ready(Err(status_of(&error))),
                None if !self.partial.is_empty() => {
                    return Poll::Ready(Err(Status::internal("the stream ended within a message")));
                }
                None if self.has_status => {
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

    /// See [`Inbox::poll_message`]. Nothing is lost if the future is dropped.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    fn append(&mut self, data: Bytes) {
        if self.partial.is_empty() {
            self.input = data;
            return;
        }
        self.partial.extend_from_slice(&data);
        if length_in(&self.partial).is_some_and(|length| self.partial.len() >= PREFIX_BYTES + length) {
            self.input = self.partial.split().freeze();
        }
    }

    fn take(&mut self) -> Result<Option<M>, Status> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let length = length_in(&self.input);
        if self.input[0] != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not supported; send them uncompressed",
            ));
        }
        if let Some(length) = length.filter(|length| *length > self.max_message_bytes) {
            let limit = self.max_message_bytes;
            let text = format!("a message of {length} bytes is larger than the limit of {limit} bytes");
            return Err(Status::out_of_range(text));
        }
        match length {
            Some(length) if self.input.len() >= PREFIX_BYTES + length => {
                self.input.advance(PREFIX_BYTES);
                let message = M::decode(self.input.split_to(length));
                message
                    .map(Some)
                    .map_err(|error| Status::internal(format!("a message cannot be read: {error}")))
            }
            _ => {
                self.partial.reserve(length.map_or(PREFIX_BYTES, |length| PREFIX_BYTES + length));
                self.partial.extend_from_slice(&std::mem::take(&mut self.input));
                Ok(None)
            }
        }
    }
}

fn length_in(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX_BYTES)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}
