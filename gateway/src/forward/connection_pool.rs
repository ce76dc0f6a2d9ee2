use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;

use super::error::Error;
use super::http1::{Connection, OpenConnection};
use crate::runtime::worker_index;

/// Maximum idle connections per endpoint and worker. Further connections are closed when they become idle.
const MAX_IDLE_PER_ADDRESS: usize = 1024;

type Idle = HashMap<SocketAddr, VecDeque<Connection>>;

/// Idle HTTP/1.1 connections to endpoints. The newest is reused first.
///
/// Each worker has its own set, because a socket is registered with the reactor of the thread that opened it.
#[derive(Debug)]
pub(crate) struct ConnectionPool {
    by_worker: Vec<Mutex<Idle>>,
    idle_timeout: Duration,
    open: Arc<AtomicUsize>,
    max_open: usize,
}

impl ConnectionPool {
    /// `max_open`: maximum connections, idle ones included.
    pub(crate) fn new(idle_timeout: Duration, workers: usize, max_open: usize) -> Self {
        let by_worker = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Self { by_worker, idle_timeout, open: Arc::default(), max_open }
    }

    /// Opens a connection. Fails if too many are open.
    pub(crate) async fn open(&self, address: SocketAddr, timeout: Duration) -> Result<Connection, Error> {
        let count = match self.count() {
            Some(count) => count,
            None => {
                let idle = std::mem::take(&mut *self.own());
                drop(idle);
                self.count().ok_or(Error::TooManyConnections)?
            }
        };
        Connection::open(address, timeout, count).await
    }

    fn count(&self) -> Option<OpenConnection> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let counted = OpenConnection::new(self.open.clone());
        (before < self.max_open).then_some(counted)
    }

    /// An idle connection. It was usable when it was checked, but the endpoint may close it at any time.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<Connection> {
        loop {
            let mut connection = self.own().get_mut(&address)?.pop_back()?;
            // If the newest has expired, all have. `sweep` closes them.
            if connection.idle_for() >= self.idle_timeout {
                return None;
            }
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    pub(crate) fn put(&self, mut connection: Connection) {
        connection.set_idle();
        let mut idle = self.own();
        let connections = idle.entry(connection.address()).or_default();
        if connections.len() < MAX_IDLE_PER_ADDRESS {
            connections.push_back(connection);
        }
    }

    /// Closes expired connections. Called every [`ConnectionPool::sweep_interval`].
    pub(crate) fn sweep(&self) {
        let mut expired = Vec::new();
        for idle in &self.by_worker {
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

    /// The connections of this thread's worker.
    fn own(&self) -> MutexGuard<'_, Idle> {
        lock(&self.by_worker[worker_index() % self.by_worker.len()])
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
