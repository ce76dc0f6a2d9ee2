use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::activity::Activity;
use super::options::{ConnectionOptions, MAX_HEAD_BYTES};
use super::places::Place;
use crate::hold::{Hold, HoldBudget};
use crate::runtime::LazyDeadline;

/// Part of a request head that is not counted. Nearly all heads are smaller.
const UNCOUNTED_HEAD_BYTES: usize = 8 << 10;
/// Memory of a larger head: hyper doubles its buffer while it reads.
const LARGE_HEAD_BYTES: usize = 2 * MAX_HEAD_BYTES;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// A request head did not arrive in time.
    Head,
    /// A request head did not arrive whole, and large heads of other connections use all of the hold budget.
    HeadBudget,
    /// No request arrived on an HTTP/2 connection. For HTTP/1, hyper has this timeout.
    Idle,
    /// Its place was needed for another connection.
    Evicted,
}

/// The deadlines of one client connection after its first byte, and its place, which may be needed for another one.
#[derive(Debug)]
pub(super) struct Deadlines<'a> {
    activity: &'a Activity,
    place: Place,
    budget: Arc<HoldBudget>,
    /// Set while a large part of a head has arrived.
    head: Option<Hold>,
    head_timeout: Duration,
    idle_timeout: Duration,
    is_http2: bool,
    /// When the current head began, or the last time at which a request was in flight.
    since: Option<Instant>,
    deadline: LazyDeadline,
}

impl<'a> Deadlines<'a> {
    pub(super) fn new(
        activity: &'a Activity,
        place: Place,
        budget: Arc<HoldBudget>,
        options: &ConnectionOptions,
        is_http2: bool,
    ) -> Self {
        let ConnectionOptions { head_timeout, idle_timeout, .. } = *options;
        Self {
            activity,
            place,
            budget,
            head: None,
            head_timeout,
            idle_timeout,
            is_http2,
            since: None,
            deadline: LazyDeadline::default(),
        }
    }

    /// Called whenever the connection has nothing to do.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        if self.place.is_pending() {
            if self.activity.has_begun() {
                self.place.establish();
            } else if self.place.poll_evicted(cx).is_ready() {
                return Poll::Ready(Expired::Evicted);
            }
        }
        if !self.count_head() {
            return Poll::Ready(Expired::HeadBudget);
        }
        if self.is_http2 { self.poll_idle(cx) } else { self.poll_head(cx) }
    }

    /// Counts a large head that has arrived in part. Returns whether there is room for it.
    fn count_head(&mut self) -> bool {
        if self.activity.head_bytes() <= UNCOUNTED_HEAD_BYTES {
            self.head = None;
            return true;
        }
        if self.head.is_none() {
            let mut head = self.budget.open();
            if head.grow(LARGE_HEAD_BYTES).is_err() {
                return false;
            }
            self.head = Some(head);
        }
        true
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        if !self.activity.is_in_head() {
            self.since = None;
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(now);
        self.deadline.poll_expired(since + self.head_timeout, cx).map(|()| Expired::Head)
    }

    /// The first request must arrive within the head timeout too, because its connection is pending until then.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        let mut timeout = self.idle_timeout;
        if !self.activity.has_begun() {
            timeout = timeout.min(self.head_timeout);
        }
        loop {
            if !self.activity.is_idle() {
                self.since = None;
            }
            let since = *self.since.get_or_insert_with(now);
            ready!(self.deadline.poll_expired(since + timeout, cx));
            if self.activity.is_idle() {
                return Poll::Ready(Expired::Idle);
            }
        }
    }
}

/// The clock of tokio, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
