//! The baseline: one lock per endpoint, all scores collected and sorted, no prompts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::fixture::{NEVER_STALE, address, in_flight};

struct Endpoint {
    address: String,
    load: Mutex<Load>,
}

struct Load {
    in_flight: u64,
    waiting: u64,
    picks: u64,
    measured: Instant,
}

impl Endpoint {
    fn lock(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Pool(Vec<Arc<Endpoint>>);

impl Pool {
    pub(crate) fn new(size: u16) -> Self {
        let endpoint = |n| {
            let load = Load { in_flight: in_flight(n), waiting: 1, picks: 0, measured: Instant::now() };
            Arc::new(Endpoint { address: address(n).to_string(), load: Mutex::new(load) })
        };
        Self((0..size).map(endpoint).collect())
    }

    /// Picks and releases.
    pub(crate) fn pick(&self) -> String {
        let now = Instant::now();
        let score = |endpoint: &Arc<Endpoint>| {
            let load = endpoint.lock();
            let is_fresh = now.duration_since(load.measured) < NEVER_STALE;
            let score = if is_fresh { load.in_flight + load.picks + load.waiting } else { load.picks };
            (score, fastrand::u32(..), endpoint.clone())
        };
        let mut scored: Vec<(u64, u32, Arc<Endpoint>)> = self.0.iter().map(score).collect();
        scored.sort_by_key(|(score, tie, _)| (*score, *tie));
        let best = &scored[0].2;
        best.lock().picks += 1;
        let addresses: Vec<&str> = scored.iter().take(3).map(|(.., it)| it.address.as_str()).collect();
        let destination = addresses.join(",");
        best.lock().picks -= 1;
        destination
    }
}
