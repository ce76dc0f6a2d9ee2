use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;

use super::Connection;
use crate::workers;

/// Most unused connections kept to one address; more are closed when they become idle.
const MAX_IDLE_PER_ADDRESS: usize = 1024;

type Idle = HashMap<SocketAddr, VecDeque<Connection>>;

/// Unused connections to model servers, newest first. Each worker has its own: a connection is watched by the
/// reactor of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Pool {
    of_workers: Vec<Mutex<Idle>>,
    idle_timeout: Duration,
}

impl Pool {
    pub(crate) fn new(idle_timeout: Duration, workers: usize) -> Self {
        Self { of_workers: (0..workers.max(1)).map(|_| Mutex::default()).collect(), idle_timeout }
    }

    /// A connection that was usable a moment ago.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<Connection> {
        loop {
            let connection = self.own().get_mut(&address)?.pop_back()?;
            // The newest first: when it is too old, so are all others, and the sweep ends them.
            if connection.idle_for() >= self.idle_timeout {
                return None;
            }
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    pub(crate) fn put(&self, mut connection: Connection) {
        connection.rest();
        let mut idle = self.own();
        let of_address = idle.entry(connection.address()).or_default();
        if of_address.len() < MAX_IDLE_PER_ADDRESS {
            of_address.push_back(connection);
        }
    }

    /// Closes what has been idle for too long. Run often enough that no connection outlives the
    /// timeout by much: see [`Pool::sweep_interval`].
    pub(crate) fn sweep(&self) {
        let mut expired = Vec::new();
        for idle in &self.of_workers {
            lock(idle).retain(|_, connections| {
                while connections.front().is_some_and(|oldest| oldest.idle_for() >= self.idle_timeout) {
                    expired.extend(connections.pop_front());
                }
                !connections.is_empty()
            });
        }
        // Sockets are closed outside the lock.
        drop(expired);
    }

    pub(crate) fn sweep_interval(&self) -> Duration {
        (self.idle_timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// Of this thread's worker.
    fn own(&self) -> MutexGuard<'_, Idle> {
        lock(&self.of_workers[workers::index() % self.of_workers.len()])
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
