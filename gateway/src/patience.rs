use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

/// A timer that is set far more often than it runs out: each request sets it anew, none waits for its end. So it is
/// not moved each time; when it runs out too early, it is set to the deadline that holds then.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// Ready after `deadline`, which may be another one each time.
    pub(crate) fn poll_over(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
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

/// How long the other side may leave the gateway waiting.
///
/// Time counts from when nothing more was there for whoever asked, until something is. It does not while nobody asks,
/// because who would get it takes no more.
#[derive(Debug)]
pub(crate) struct Stall {
    limit: Duration,
    since: Option<Instant>,
    patience: Patience,
}

impl Stall {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: None, patience: Patience::default() }
    }

    /// Something has come.
    pub(crate) fn heard(&mut self) {
        self.since = None;
    }

    /// To be asked while nothing comes: ready, with how long that was, when it was for too long.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = *self.since.get_or_insert_with(|| tokio::time::Instant::now().into_std());
        self.patience.poll_over(since + self.limit, cx).map(|()| self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_deadline_that_was_said_last_holds() {
        let begin = tokio::time::Instant::now();
        let at = |seconds: u32| (begin + SECOND * seconds).into_std();
        for deadlines in [vec![5], vec![5, 9], vec![9, 5], vec![2, 7, 4, 6]] {
            let mut patience = Patience::default();
            let now = begin.elapsed().as_secs() as u32;
            for &deadline in &deadlines {
                let early = poll_fn(|cx| Poll::Ready(patience.poll_over(at(now + deadline), cx))).await;
                assert!(early.is_pending());
            }
            let last = now + deadlines.last().unwrap();
            poll_fn(|cx| patience.poll_over(at(last), cx)).await;
            let late = tokio::time::Instant::now().into_std() - at(last);
            assert!(late < SECOND / 100, "{deadlines:?}: {late:?}");
        }
    }
}
