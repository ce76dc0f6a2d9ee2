//! Whether a request is served at all: bounds of requests in flight and of their heads.

use http::request;

use super::context::Context;
use crate::error::Error;

/// Heads up to this size are not counted. Nearly all are smaller.
const UNCOUNTED_BYTES: usize = 4 << 10;
/// hyper keeps the buffer of a head for the next request. Connections with larger heads are closed instead.
const KEPT_BYTES: usize = 16 << 10;
/// A head is in memory twice: as it came, and as it is sent to the endpoint.
const COPIES: usize = 2;

impl Context<'_> {
    /// Fails if too many requests are in flight, or the head is large and the hold budget is exhausted.
    pub(super) fn admit(&mut self, head: HeadSize) -> Result<(), Error> {
        let limit = self.proxy.max_requests;
        // The request itself is counted already.
        if self.proxy.metrics.active_requests.get() > limit as i64 {
            return Err(Error::TooManyRequests { limit });
        }
        if head.0 > UNCOUNTED_BYTES {
            let mut held = self.proxy.budget.open();
            held.grow(COPIES * head.0)?;
            self.record.hold_head(held);
        }
        Ok(())
    }
}

/// Bytes of the path and of all headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSize(usize);

impl HeadSize {
    pub(super) fn of(head: &request::Parts) -> Self {
        let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        Self(head.headers.iter().fold(path, |sum, (name, value)| sum + name.as_str().len() + value.len()))
    }

    /// Whether an HTTP/1 connection must be closed after the request.
    pub(super) fn is_large(self) -> bool {
        self.0 > KEPT_BYTES
    }
}
