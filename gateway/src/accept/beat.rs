use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::time::{MissedTickBehavior, interval};

/// Between two beats.
const INTERVAL: Duration = Duration::from_millis(250);
/// Each connection is woken once in so many beats: a few at each, not all at one.
const ROUND: usize = 64;

/// A clock for all connections of a worker.
///
/// Every request of a client begins with a wait that could be too long, and that hardly ever is. A timer for each is
/// set and taken back for nothing; here a connection looks at this clock when it is awake, and is woken now and then to
/// look at it. A wait may so last up to 16 s longer.
#[derive(Debug)]
pub(crate) struct Beat {
    began: Instant,
    beats: AtomicU64,
    connections: Mutex<Slab<Waker>>,
}

impl Beat {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), beats: AtomicU64::new(0), connections: Mutex::default() })
    }

    /// Beats until it is dropped.
    pub(crate) async fn run(&self) {
        let mut beats = interval(INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            beats.tick().await;
            let passed = self.began.elapsed().as_nanos() / INTERVAL.as_nanos();
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            self.beats.store(passed, Ordering::Relaxed);
            self.wake(passed as usize % ROUND);
        }
    }

    fn wake(&self, turn: usize) {
        for (_, connection) in self.lock().iter().filter(|(place, _)| place % ROUND == turn) {
            connection.wake_by_ref();
        }
    }

    fn now(&self) -> Instant {
        self.began + INTERVAL * u32::try_from(self.beats.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that are woken.
#[derive(Debug)]
pub(super) struct Place {
    beat: Arc<Beat>,
    place: usize,
}

impl Place {
    /// `connection`: of the task that has it from now on.
    pub(super) fn take(beat: Arc<Beat>, connection: Waker) -> Self {
        let place = beat.lock().insert(connection);
        Self { beat, place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.beat.lock().remove(self.place);
    }
}

/// Timers for a connection that has a [`Place`].
#[derive(Clone)]
pub(super) struct BeatTimer(pub(super) Arc<Beat>);

impl fmt::Debug for BeatTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BeatTimer").finish_non_exhaustive()
    }
}

impl hyper::rt::Timer for BeatTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(BeatSleep { beat: self.0.clone(), deadline })
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

struct BeatSleep {
    beat: Arc<Beat>,
    deadline: Instant,
}

impl Future for BeatSleep {
    type Output = ();

    /// Nothing is kept of `cx`: the connection is woken anyway.
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.beat.now() >= self.deadline { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl hyper::rt::Sleep for BeatSleep {}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::Timer as _;

    use super::*;

    #[tokio::test]
    async fn who_has_a_place_is_woken_when_its_time_is_over() {
        let beat = Beat::new();
        let timer = BeatTimer(beat.clone());
        let waiting = async {
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            let places: Vec<Place> = (0..ROUND).map(|_| Place::take(beat.clone(), waker.clone())).collect();
            let began = Instant::now();
            timer.sleep(INTERVAL * 2).await;
            assert!(began.elapsed() >= INTERVAL, "it was early");
            places
        };
        let places = tokio::select! {
            places = waiting => places,
            () = beat.run() => unreachable!("it beats on"),
        };
        assert_eq!(beat.lock().len(), ROUND);
        drop(places);
        assert!(beat.lock().is_empty());
    }

    #[test]
    fn each_is_woken_once_in_a_round() {
        let beat = Beat::new();
        let places: Vec<Place> =
            (0..ROUND * 2).map(|_| Place::take(beat.clone(), Waker::noop().clone())).collect();
        let of_turn = |turn| beat.lock().iter().filter(|(place, _)| place % ROUND == turn).count();
        assert!((0..ROUND).all(|turn| of_turn(turn) == 2));
        drop(places);
    }
}
