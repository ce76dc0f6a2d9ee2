//! Whether a request is served at all: bounds of requests in flight and of their heads.

use http::{HeaderValue, Version, request};

use super::context::Context;
use crate::error::Error;

/// Heads up to this size are not counted. Nearly all are smaller.
const UNCOUNTED_BYTES: usize = 4 << 10;
/// Headers up to this number take no memory beyond their names and values.
const USUAL_HEADERS: usize = 32;
/// Memory that a further header takes in addition to its name and value: its entry in the map, with the growth of the map.
const HEADER_BYTES: usize = 256;
/// hyper keeps the buffer of a head for the next request. Connections with larger heads are closed instead.
const KEPT_BYTES: usize = 16 << 10;
/// A head is in memory twice: as it came, and as it is sent to the picker, later to the endpoint. The third covers heads that
/// arrive before others are rejected, and what the allocator loses on blocks of this size.
const COPIES: usize = 3;

impl Context<'_> {
    /// Fails if too many requests are in flight, or the head is large and the hold budget is exhausted.
    pub(super) fn admit(&mut self, head: &mut request::Parts, size: HeadSize) -> Result<(), Error> {
        let limit = self.proxy.max_requests;
        // The request itself is counted already.
        if self.proxy.metrics.active_requests.get() > limit as i64 {
            return Err(Error::TooManyRequests { limit });
        }
        if size.0 > UNCOUNTED_BYTES {
            let mut held = self.proxy.budget.open();
            held.grow(COPIES * size.0)?;
            self.record.hold_head(held);
            release_read_buffer(head);
        }
        Ok(())
    }
}

/// In HTTP/1, values share the buffer from which they were read. It doubles when it is full, so it can be twice as large as
/// the head.
fn release_read_buffer(head: &mut request::Parts) {
    if head.version >= Version::HTTP_2 {
        return;
    }
    for value in head.headers.values_mut() {
        let is_sensitive = value.is_sensitive();
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(is_sensitive);
            *value = copy;
        }
    }
}

/// Memory of the path and of all headers, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSize(usize);

impl HeadSize {
    pub(super) fn of(head: &request::Parts) -> Self {
        let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        let entries = HEADER_BYTES * head.headers.len().saturating_sub(USUAL_HEADERS);
        let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        Self(path + entries + lines.sum::<usize>())
    }

    /// Whether an HTTP/1 connection must be closed after the request.
    pub(super) fn is_large(self) -> bool {
        self.0 > KEPT_BYTES
    }
}
