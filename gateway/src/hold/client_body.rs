use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::runtime::poll_body_frame;

/// The request body of a client.
#[derive(Debug)]
pub(crate) struct ClientBody {
    incoming: Incoming,
    /// Its end was returned.
    has_ended: bool,
    /// Set if this is dropped before the end of the body.
    is_unread: Option<Arc<AtomicBool>>,
}

impl ClientBody {
    /// `is_unread` is set if the body is dropped before its end.
    pub(crate) fn new(incoming: Incoming, is_unread: Option<Arc<AtomicBool>>) -> Self {
        Self { incoming, has_ended: false, is_unread }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(poll_body_frame(&mut self.incoming, cx));
        self.has_ended |= frame.is_none();
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let Some(is_unread) = &self.is_unread
            && !self.has_ended
            && !self.incoming.is_end_stream()
        {
            is_unread.store(true, Ordering::Relaxed);
        }
    }
}
