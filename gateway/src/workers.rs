//! The threads that serve clients. A connection stays on one of them, from its first byte to its last, and so do
//! the connections to model servers that its requests use: nothing is handed from core to core on the way.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::Beat;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// All workers. They end when `stop` was called and all tasks have ended.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    beat: Arc<Beat>,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a worker.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) runtime: Handle,
    pub(crate) beat: Arc<Beat>,
    connections: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// `count`: at least one is started.
    pub(crate) fn start(count: usize, tasks: &TaskTracker, stop: &CancellationToken) -> io::Result<Self> {
        let start_one = |index| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, beat) = (runtime.handle().clone(), Beat::new());
            let worker = Worker { runtime: handle, beat: beat.clone(), connections: Arc::default() };
            let (tasks, stop) = (tasks.clone(), stop.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                INDEX.set(index);
                runtime.block_on(async {
                    let working = async {
                        stop.cancelled().await;
                        tasks.wait().await;
                    };
                    tokio::select! {
                        () = working => {}
                        () = beat.run() => {}
                    }
                });
            })?;
            Ok(worker)
        };
        Ok(Self { workers: (0..count.max(1)).map(start_one).collect::<io::Result<_>>()? })
    }

    /// A place on the worker with the fewest connections.
    pub(crate) fn seat(&self) -> Option<Seat> {
        let worker = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let (runtime, beat) = (worker.runtime.clone(), worker.beat.clone());
        Some(Seat { runtime, beat, connections: worker.connections.clone() })
    }
}

/// Which worker this thread is; the first, for threads that are none.
pub(crate) fn index() -> usize {
    INDEX.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_threads_end() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let workers = Workers::start(3, &tasks, &stop).unwrap();
        let seats: Vec<Seat> = (0..6).map(|_| workers.seat().unwrap()).collect();
        let mut served_by = Vec::new();
        for seat in &seats {
            served_by.push(tasks.spawn_on(async { index() }, &seat.runtime).await.unwrap());
        }
        served_by.sort_unstable();
        assert_eq!(served_by, [0, 0, 1, 1, 2, 2]);
        let counts = |workers: &Workers| -> Vec<usize> {
            workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
        };
        assert_eq!(counts(&workers), [2, 2, 2]);
        drop(seats);
        assert_eq!(counts(&workers), [0, 0, 0]);
        let pending = tasks.spawn_on(std::future::pending::<()>(), &workers.workers[0].runtime);
        stop.cancel();
        tasks.close();
        pending.abort();
        tasks.wait().await;
        // Its runtime is gone with the thread.
        let gone = workers.workers[1].runtime.spawn(std::future::pending::<()>());
        assert!(gone.await.unwrap_err().is_cancelled());
    }
}
