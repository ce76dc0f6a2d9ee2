use std::future::Future as _;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How long a client may leave the gateway waiting for more of its body.
///
/// Time counts from when nothing more was there for whoever asked, until something is. It does not while nobody
/// asks, because a model server takes no more. A client that keeps up costs no timer.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Else the timer is left over from an earlier wait.
    is_waiting: bool,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: None, is_waiting: false }
    }

    /// Something has come.
    pub(super) fn heard(&mut self) {
        self.is_waiting = false;
    }

    /// To be asked while nothing comes: ready, with how long that was, when it was for too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let (limit, was_waiting) = (self.limit, mem::replace(&mut self.is_waiting, true));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !was_waiting {
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx).map(|()| limit)
    }
}
