use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Connection;

/// Most unused connections kept to one address; more are closed when they become idle.
const MAX_IDLE_PER_ADDRESS: usize = 1024;

/// Unused connections to model servers, newest first.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<SocketAddr, VecDeque<Connection>>>,
    idle_timeout: Duration,
}

impl Pool {
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self { idle: Mutex::default(), idle_timeout }
    }

    /// A connection that was usable a moment ago.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<Connection> {
        loop {
            let mut connection = self.lock().get_mut(&address)?.pop_back()?;
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
        let mut idle = self.lock();
        let of_address = idle.entry(connection.address()).or_default();
        if of_address.len() < MAX_IDLE_PER_ADDRESS {
            of_address.push_back(connection);
        }
    }

    /// Closes what has been idle for too long. Run often enough that no connection outlives the
    /// timeout by much: see [`Pool::sweep_interval`].
    pub(crate) fn sweep(&self) {
        let mut expired = Vec::new();
        self.lock().retain(|_, connections| {
            while connections.front().is_some_and(|oldest| oldest.idle_for() >= self.idle_timeout) {
                expired.extend(connections.pop_front());
            }
            !connections.is_empty()
        });
        // Sockets are closed outside the lock.
        drop(expired);
    }

    pub(crate) fn sweep_interval(&self) -> Duration {
        (self.idle_timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, VecDeque<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
