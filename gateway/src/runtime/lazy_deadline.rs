use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

/// A deadline that moves without touching its timer.
///
/// Every request sets a deadline and almost none expires. The timer is only reset when it fires before the deadline
/// that is then current, or when a deadline is earlier than the timer.
#[derive(Debug, Default)]
pub(crate) struct LazyDeadline(Option<Pin<Box<Sleep>>>);

impl LazyDeadline {
    /// Ready after `deadline`. Each call may pass another deadline; the last one counts.
    pub(crate) fn poll_expired(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        loop {
            if sleep.deadline().into_std() > deadline {
                sleep.as_mut().reset(deadline.into());
            }
            ready!(sleep.as_mut().poll(cx));
            if tokio::time::Instant::now().into_std() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
        }
    }
}

/// Longest time without progress of a peer while the gateway waits for it.
///
/// Time counts from the first [`IdleTimeout::poll_expired`] until [`IdleTimeout::reset`]. It does not count while
/// it is not polled: the receiving side then takes no data, so the peer cannot make progress.
#[derive(Debug)]
pub(crate) struct IdleTimeout {
    limit: Duration,
    since: Option<Instant>,
    deadline: LazyDeadline,
}

impl IdleTimeout {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: None, deadline: LazyDeadline::default() }
    }

    /// Data arrived.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Called while no data is available. Ready with the limit when it has passed.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = *self.since.get_or_insert_with(|| tokio::time::Instant::now().into_std());
        self.deadline.poll_expired(since + self.limit, cx).map(|()| self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_last_deadline_counts() {
        let begin = tokio::time::Instant::now();
        let at = |seconds: u32| (begin + SECOND * seconds).into_std();
        for deadlines in [vec![5], vec![5, 9], vec![9, 5], vec![2, 7, 4, 6]] {
            let mut lazy = LazyDeadline::default();
            let now = begin.elapsed().as_secs() as u32;
            for &deadline in &deadlines {
                let early = poll_fn(|cx| Poll::Ready(lazy.poll_expired(at(now + deadline), cx))).await;
                assert!(early.is_pending());
            }
            let last = now + deadlines.last().unwrap();
            poll_fn(|cx| lazy.poll_expired(at(last), cx)).await;
            let late = tokio::time::Instant::now().into_std() - at(last);
            assert!(late < SECOND / 100, "{deadlines:?}: {late:?}");
        }
    }
}
