use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(250);
const TICKS_PER_SECOND: u64 = 4;
/// Value of [`Connection::wake_at`] without a deadline.
const NEVER: u64 = u64::MAX;

/// Shared 250 ms tick for the deadlines of all connections of a worker.
///
/// A deadline never fires early and at most two ticks (500 ms) late, plus the time that the worker thread is busy.
/// Setting a deadline costs one atomic load: most requests set a deadline and cancel it, and a timer of the runtime
/// would be inserted and removed each time. A tick reads one atomic per connection and wakes only connections that
/// are due.
#[derive(Debug)]
pub(crate) struct CoarseTimer {
    start: Instant,
    /// Ticks since `start`.
    ticks: AtomicU64,
    connections: Mutex<Slab<Arc<Connection>>>,
}

/// One connection with its earliest deadline.
#[derive(Debug)]
struct Connection {
    /// The tick at which the connection is woken.
    wake_at: AtomicU64,
    /// Waker of the task that serves the connection, known after the first poll of a sleep. The task and its waker
    /// stay the same for the life of the connection.
    waker: OnceLock<Waker>,
}

impl CoarseTimer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: now(), ticks: AtomicU64::new(0), connections: Mutex::default() })
    }

    /// Ticks until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            let ticks = now().saturating_duration_since(self.start).as_nanos() / TICK.as_nanos();
            self.tick(u64::try_from(ticks).unwrap_or(NEVER - 1));
        }
    }

    fn tick(&self, ticks: u64) {
        self.ticks.store(ticks, Ordering::Relaxed);
        for (_, connection) in &*self.lock() {
            if connection.wake_at.load(Ordering::Relaxed) <= ticks {
                // A deadline that is set concurrently is found at the next tick.
                connection.wake_at.store(NEVER, Ordering::Relaxed);
                if let Some(waker) = connection.waker.get() {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// The first tick that is not before `deadline`.
    fn tick_of(&self, deadline: Instant) -> u64 {
        // Without 128-bit arithmetic, which is a function call: this runs for every request.
        let after = deadline.saturating_duration_since(self.start);
        let ticks = u64::from(after.subsec_nanos().div_ceil(TICK.subsec_nanos()));
        after.as_secs().saturating_mul(TICKS_PER_SECOND).saturating_add(ticks).min(NEVER - 1)
    }

    /// The end of the current tick. It is not before the real time, so deadlines that start from it are not early.
    fn now(&self) -> Instant {
        let ticks = self.ticks.load(Ordering::Relaxed).saturating_add(1);
        self.start + TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of tokio, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Timer of one connection on a [`CoarseTimer`]. All its sleeps must be polled by the task that serves the connection.
///
/// A sleep that is dropped early may still wake the connection once, at its deadline.
#[derive(Clone)]
pub(crate) struct ConnectionTimer(Arc<Registration>);

/// Removes the connection from the timer when it is dropped.
struct Registration {
    timer: Arc<CoarseTimer>,
    key: usize,
    connection: Arc<Connection>,
}

impl ConnectionTimer {
    pub(crate) fn new(timer: Arc<CoarseTimer>) -> Self {
        let connection = Arc::new(Connection { wake_at: AtomicU64::new(NEVER), waker: OnceLock::new() });
        let key = timer.lock().insert(connection.clone());
        Self(Arc::new(Registration { timer, key, connection }))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.timer.lock().remove(self.key);
    }
}

impl fmt::Debug for ConnectionTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionTimer").field(&self.0.key).finish()
    }
}

impl hyper::rt::Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(CoarseSleep { until: self.0.timer.tick_of(deadline), registration: self.0.clone() })
    }

    fn now(&self) -> Instant {
        self.0.timer.now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<CoarseSleep>() {
            Some(sleep) => sleep.get_mut().until = self.0.timer.tick_of(deadline),
            None => *sleep = self.sleep_until(deadline),
        }
    }
}

struct CoarseSleep {
    registration: Arc<Registration>,
    /// The tick at which it is ready.
    until: u64,
}

impl Future for CoarseSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Registration { timer, connection, .. } = &*self.registration;
        if timer.ticks.load(Ordering::Relaxed) >= self.until {
            return Poll::Ready(());
        }
        if connection.wake_at.load(Ordering::Relaxed) > self.until {
            connection.waker.get_or_init(|| cx.waker().clone());
            connection.wake_at.fetch_min(self.until, Ordering::Relaxed);
        }
        Poll::Pending
    }
}

impl hyper::rt::Sleep for CoarseSleep {}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use hyper::rt::Timer as _;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection whose wakes are counted, with a sleep that is pending.
    fn sleeping(
        timer: &Arc<CoarseTimer>,
        duration: Duration,
    ) -> (Arc<Wakes>, Pin<Box<dyn hyper::rt::Sleep>>) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut sleep = ConnectionTimer::new(timer.clone()).sleep(duration);
        assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        (wakes, sleep)
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_fires_within_half_a_second_and_not_early() {
        for offset_ms in [0, 1, 100, 249, 250, 251, 499] {
            let timer = CoarseTimer::new();
            let connection = ConnectionTimer::new(timer.clone());
            let waiting = async {
                tokio::time::sleep(Duration::from_millis(offset_ms)).await;
                for duration in [1, 249, 250, 251, 10_000, 60_000].map(Duration::from_millis) {
                    let start = tokio::time::Instant::now();
                    connection.sleep(duration).await;
                    let elapsed = start.elapsed();
                    assert!(elapsed >= duration, "{offset_ms}: {duration:?} was early: {elapsed:?}");
                    assert!(
                        elapsed <= duration + TICK * 2,
                        "{offset_ms}: {duration:?} was late: {elapsed:?}"
                    );
                }
            };
            tokio::select! {
                () = waiting => {}
                () = timer.run() => unreachable!("the timer runs until it is dropped"),
            }
        }
    }

    #[test]
    fn only_connections_that_are_due_are_woken() {
        let timer = CoarseTimer::new();
        let idle: Vec<ConnectionTimer> = (0..10).map(|_| ConnectionTimer::new(timer.clone())).collect();
        let sleeps: Vec<_> = (0..10).map(|ticks| sleeping(&timer, TICK * ticks)).collect();
        for tick in 1..=11 {
            timer.tick(tick);
            for (index, (wakes, _)) in sleeps.iter().enumerate() {
                let expected = usize::from((index as u64) < tick);
                assert_eq!(wakes.0.load(Ordering::Relaxed), expected, "connection {index}, tick {tick}");
            }
        }
        assert_eq!(timer.lock().len(), 20);
        drop((idle, sleeps));
        assert!(timer.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_sleep_does_not_delay_a_later_one() {
        let timer = CoarseTimer::new();
        let connection = ConnectionTimer::new(timer.clone());
        let waiting = async {
            let start = tokio::time::Instant::now();
            let mut first = connection.sleep(TICK);
            let mut second = connection.sleep(TICK * 4);
            poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
            drop(first);
            second.as_mut().await;
            assert!(start.elapsed() <= TICK * 6);
        };
        tokio::select! {
            () = waiting => {}
            () = timer.run() => unreachable!("the timer runs until it is dropped"),
        }
    }
}
