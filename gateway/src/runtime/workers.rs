//! Threads that serve clients. A client connection stays on one worker, and so do the upstream connections that its
//! requests use, so no request moves between cores.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CoarseTimer;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// All workers. They end when `stop` is cancelled and all tasks have ended.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    timer: Arc<CoarseTimer>,
    connections: Arc<AtomicUsize>,
}

/// The worker chosen for a connection. The connection is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) runtime: Handle,
    pub(crate) timer: Arc<CoarseTimer>,
    connections: Arc<AtomicUsize>,
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` workers, at least one.
    pub(crate) fn start(count: usize, tasks: &TaskTracker, stop: &CancellationToken) -> io::Result<Self> {
        let start_one = |index| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, timer) = (runtime.handle().clone(), CoarseTimer::new());
            let worker = Worker { runtime: handle, timer: timer.clone(), connections: Arc::default() };
            let (tasks, stop) = (tasks.clone(), stop.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                INDEX.set(index);
                runtime.block_on(async {
                    let finished = async {
                        stop.cancelled().await;
                        tasks.wait().await;
                    };
                    tokio::select! {
                        () = finished => {}
                        () = timer.run() => {}
                    }
                });
            })?;
            Ok(worker)
        };
        Ok(Self { workers: (0..count.max(1)).map(start_one).collect::<io::Result<_>>()? })
    }

    /// Assigns a connection to the worker with the fewest connections.
    pub(crate) fn assign(&self) -> Option<Assignment> {
        let worker = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let (runtime, timer) = (worker.runtime.clone(), worker.timer.clone());
        Some(Assignment { runtime, timer, connections: worker.connections.clone() })
    }
}

/// Index of the worker that this thread is. 0 for other threads.
pub(crate) fn worker_index() -> usize {
    INDEX.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spreads_connections_and_ends_its_threads() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let workers = Workers::start(3, &tasks, &stop).unwrap();
        let assignments: Vec<Assignment> = (0..6).map(|_| workers.assign().unwrap()).collect();
        let mut served_by = Vec::new();
        for assignment in &assignments {
            served_by.push(tasks.spawn_on(async { worker_index() }, &assignment.runtime).await.unwrap());
        }
        served_by.sort_unstable();
        assert_eq!(served_by, [0, 0, 1, 1, 2, 2]);
        let counts = |workers: &Workers| -> Vec<usize> {
            workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
        };
        assert_eq!(counts(&workers), [2, 2, 2]);
        drop(assignments);
        assert_eq!(counts(&workers), [0, 0, 0]);
        let pending = tasks.spawn_on(std::future::pending::<()>(), &workers.workers[0].runtime);
        stop.cancel();
        tasks.close();
        pending.abort();
        tasks.wait().await;
        // The runtime ended with its thread.
        let gone = workers.workers[1].runtime.spawn(std::future::pending::<()>());
        assert!(gone.await.unwrap_err().is_cancelled());
    }
}
