//! Tells servers what requests have used, after they have ended.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::message::Request;
use super::metrics::{CallResult, LimitServerMetrics};
use super::servers::LimitServer;

/// Reports that wait. Further ones are dropped and counted.
const QUEUE_REPORTS: usize = 4096;
/// Reports that are sent at the same time.
const MAX_RUNNING: usize = 64;

#[derive(Debug)]
struct Report {
    server: Arc<LimitServer>,
    request: Request,
}

/// Queues reports without blocking.
#[derive(Clone, Debug)]
pub(crate) struct LimitReports {
    queue: mpsc::Sender<Report>,
    metrics: LimitServerMetrics,
}

impl LimitReports {
    /// The queue, and the sending of what is queued, which ends when the queue is dropped and empty.
    pub(crate) fn new(metrics: LimitServerMetrics) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, reports) = mpsc::channel(QUEUE_REPORTS);
        (Self { queue, metrics }, send(reports))
    }

    pub(super) fn report(&self, server: &Arc<LimitServer>, request: Request) {
        if self.queue.try_send(Report { server: server.clone(), request }).is_err() {
            self.metrics.dropped_report();
        }
    }
}

async fn send(mut queue: mpsc::Receiver<Report>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            report = queue.recv(), if running.len() < MAX_RUNNING => match report {
                Some(report) => running.push(report.send()),
                None => break,
            },
            Some(()) = running.next() => {}
        }
    }
    while running.next().await.is_some() {}
}

impl Report {
    /// A report that fails is not sent again: it may have been counted.
    async fn send(self) {
        let answer = self.server.ask(&self.request).await;
        self.server.count(if answer.is_ok() { CallResult::Reported } else { CallResult::Failed });
    }
}
