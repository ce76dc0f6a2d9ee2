use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Broken, Connection, H2Connection, Pool};
use crate::hold::Fate;

/// A response's body together with the connection it comes over. The
/// connection goes back to the pool at the body's end; dropped before, it is closed.
#[derive(Debug)]
pub(crate) struct PooledBody(Source);

#[derive(Debug)]
enum Source {
    Own(Connection, Arc<Pool>),
    /// Over a connection that others use too; dropped before its end, only its stream is reset.
    Shared {
        body: Incoming,
        request: Fate,
        _connection: H2Connection,
    },
    Ended,
}

impl PooledBody {
    /// The head of the response has been read.
    pub(crate) fn new(connection: Connection, pool: Arc<Pool>) -> Self {
        let mut body = Self(Source::Own(connection, pool));
        body.release_if_ended();
        body
    }

    /// `request`: the body that was sent.
    pub(crate) fn shared(body: Incoming, request: Fate, connection: H2Connection) -> Self {
        Self(Source::Shared { body, request, _connection: connection })
    }

    /// A server that answers before it has read all of the request leaves its connection unusable.
    fn release_if_ended(&mut self) {
        if matches!(&self.0, Source::Own(connection, _) if connection.is_end_stream())
            && let Source::Own(connection, pool) = std::mem::replace(&mut self.0, Source::Ended)
            && connection.is_usable()
        {
            pool.put(connection);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match &mut self.0 {
            Source::Own(connection, _) => ready!(connection.poll_frame(cx)),
            Source::Shared { body, request, .. } => {
                return Pin::new(body).poll_frame(cx).map_err(|error| Broken::http2(error, request));
            }
            Source::Ended => None,
        };
        if let Some(Err(_)) = &frame {
            self.0 = Source::Ended;
        }
        self.release_if_ended();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(connection, _) => connection.is_end_stream(),
            Source::Shared { body, .. } => body.is_end_stream(),
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(connection, _) => connection.size_hint(),
            Source::Shared { body, .. } => body.size_hint(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}
