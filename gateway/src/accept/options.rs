use std::time::Duration;

/// Maximum size of a request head, and of one read of a request body.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Options of all client connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionOptions {
    /// Maximum time without a request.
    pub(crate) idle_timeout: Duration,
    /// Maximum time from the first to the last byte of a request head, and from the start of a connection to its first
    /// byte.
    pub(crate) head_timeout: Duration,
    /// Maximum time for which the client takes no data of a response.
    pub(crate) write_timeout: Duration,
    /// Maximum time that requests in flight may take once a drain has begun.
    pub(crate) drain_timeout: Duration,
    /// Use a [`crate::runtime::CoalescingWaker`]. Off only to measure its effect.
    pub(crate) coalesces_wakes: bool,
}
