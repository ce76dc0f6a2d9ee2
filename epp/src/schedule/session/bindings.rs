//! The endpoints of sessions. Bounded by count and age.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

/// Maximum sessions of one plugin. The oldest half is forgotten first.
const MAX_SESSIONS: usize = 1 << 16;

/// The endpoint of each session that was used within the TTL.
#[derive(Debug)]
pub(super) struct Bindings {
    ttl: f64,
    hasher: foldhash::fast::RandomState,
    generations: Mutex<Generations>,
}

/// Sessions are written to the newer generation, and forgotten with the older one.
#[derive(Debug, Default)]
struct Generations {
    newer: HashMap<u64, Binding>,
    older: HashMap<u64, Binding>,
    /// When the newer generation began.
    since: f64,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    address: SocketAddr,
    used_at: f64,
}

impl Bindings {
    /// `ttl`: seconds.
    pub(super) fn new(ttl: f64) -> Self {
        Self { ttl, hasher: foldhash::fast::RandomState::default(), generations: Mutex::default() }
    }

    pub(super) fn endpoint(&self, session: &str, now: f64) -> Option<SocketAddr> {
        let key = self.hasher.hash_one(session);
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let binding = generations.newer.get(&key).or_else(|| generations.older.get(&key))?;
        (now - binding.used_at <= self.ttl).then_some(binding.address)
    }

    pub(super) fn bind(&self, session: &str, address: SocketAddr, now: f64) {
        let key = self.hasher.hash_one(session);
        let generations = &mut *self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.newer.len() >= MAX_SESSIONS / 2 || now - generations.since > self.ttl {
            generations.older = std::mem::take(&mut generations.newer);
            generations.since = now;
        }
        generations.newer.insert(key, Binding { address, used_at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn forgets_sessions_that_are_not_used_within_the_ttl() {
        let bindings = Bindings::new(300.0);
        bindings.bind("a", address(1), 0.0);
        bindings.bind("b", address(2), 0.0);
        assert_eq!(bindings.endpoint("a", 300.0), Some(address(1)));
        bindings.bind("a", address(1), 299.0);
        assert_eq!(bindings.endpoint("b", 301.0), None);
        bindings.bind("c", address(3), 302.0);
        assert_eq!(bindings.endpoint("a", 599.0), Some(address(1)), "a new generation keeps used sessions");
        assert_eq!(bindings.endpoint("a", 600.0), None);
    }

    #[test]
    fn holds_at_most_the_maximum_of_sessions() {
        let bindings = Bindings::new(300.0);
        for n in 0..2 * MAX_SESSIONS {
            bindings.bind(&n.to_string(), address(1), 0.0);
        }
        let generations = bindings.generations.lock().unwrap();
        assert!(generations.newer.len() + generations.older.len() <= MAX_SESSIONS);
        drop(generations);
        let newest = (2 * MAX_SESSIONS - 1).to_string();
        assert_eq!(bindings.endpoint(&newest, 0.0), Some(address(1)));
    }
}
