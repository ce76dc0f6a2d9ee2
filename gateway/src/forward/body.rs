use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Connection, Pool};

/// A response's body together with the connection it comes over. The
/// connection goes back to the pool at the body's end; dropped before, it is closed.
#[derive(Debug)]
pub(crate) struct PooledBody {
    body: Incoming,
    connection: Option<(Connection, Arc<Pool>)>,
}

impl PooledBody {
    pub(crate) fn new(body: Incoming, connection: Connection, pool: Arc<Pool>) -> Self {
        let mut pooled = Self { body, connection: Some((connection, pool)) };
        pooled.release_if_ended();
        pooled
    }

    /// Over a connection that others use too; dropped before its end, only its stream is reset.
    pub(crate) fn shared(body: Incoming) -> Self {
        Self { body, connection: None }
    }

    fn release_if_ended(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }

    /// A server that answers before it has read all of the request leaves its connection unusable.
    fn release(&mut self) {
        if let Some((mut connection, pool)) = self.connection.take()
            && connection.is_usable()
        {
            pool.put(connection);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some((connection, _)) = &mut this.connection {
            connection.poll_drive(cx);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => this.release_if_ended(),
            Some(Err(_)) => this.connection = None,
            None => this.release(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
