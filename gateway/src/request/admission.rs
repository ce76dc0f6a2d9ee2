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
    pub(super) fn admit(&mut self, head: &request::Parts) -> Result<(), Error> {
        let limit = self.proxy.max_requests;
        // The request itself is counted already.
        if self.proxy.metrics.active_requests.get() > limit as i64 {
            return Err(Error::TooManyRequests { limit });
        }
        let bytes = size(head);
        if bytes > UNCOUNTED_BYTES {
            let mut held = self.proxy.budget.open();
            held.grow(COPIES * bytes)?;
            self.record.hold_head(held);
        }
        Ok(())
    }
}

/// Whether an HTTP/1 connection must be closed after the request.
pub(super) fn is_large(head: &request::Parts) -> bool {
    size(head) > KEPT_BYTES
}

fn size(head: &request::Parts) -> usize {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    head.headers.iter().fold(path, |sum, (name, value)| sum + name.as_str().len() + value.len())
}
