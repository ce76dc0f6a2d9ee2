use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection_pool::ConnectionPool;
use super::error::ExchangeError;
use super::h2::H2Connection;
use super::http1::Connection;
use crate::hold::UploadOutcome;

/// A response body with its connection. The connection returns to the connection pool at the end of the body, and is
/// closed if the body is dropped before.
#[derive(Debug)]
pub(crate) struct PooledBody(State);

#[derive(Debug)]
enum State {
    Http1(Connection, Arc<ConnectionPool>),
    /// The connection is shared. If the body is dropped before its end, only the stream is reset.
    Http2 {
        body: Incoming,
        upload: UploadOutcome,
        _connection: H2Connection,
    },
    Ended,
}

impl PooledBody {
    /// The body of the response whose head was read from `connection`.
    pub(crate) fn http1(connection: Connection, pool: Arc<ConnectionPool>) -> Self {
        let mut body = Self(State::Http1(connection, pool));
        body.release_if_ended();
        body
    }

    /// `upload`: how the request body ends.
    pub(super) fn http2(body: Incoming, upload: UploadOutcome, connection: H2Connection) -> Self {
        Self(State::Http2 { body, upload, _connection: connection })
    }

    /// Returns the connection at the end of the body. A connection whose request was not sent completely is closed.
    fn release_if_ended(&mut self) {
        if matches!(&self.0, State::Http1(connection, _) if connection.is_end_stream())
            && let State::Http1(connection, pool) = std::mem::replace(&mut self.0, State::Ended)
            && connection.is_complete()
        {
            pool.put(connection);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let frame = match &mut self.0 {
            State::Http1(connection, _) => ready!(connection.poll_frame(cx)),
            State::Http2 { body, upload, .. } => {
                return Pin::new(body).poll_frame(cx).map_err(|error| ExchangeError::http2(error, upload));
            }
            State::Ended => None,
        };
        if let Some(Err(_)) = &frame {
            self.0 = State::Ended;
        }
        self.release_if_ended();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Http1(connection, _) => connection.is_end_stream(),
            State::Http2 { body, .. } => body.is_end_stream(),
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Http1(connection, _) => connection.size_hint(),
            State::Http2 { body, .. } => body.size_hint(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}
