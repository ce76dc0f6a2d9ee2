use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{Database, Error, UsageRecord};

/// Maximum queued records. Further ones are dropped and counted.
const QUEUE_RECORDS: usize = 65_536;
/// Maximum records of one statement.
const BATCH_RECORDS: usize = 500;
/// Wait for more records of a batch.
const LINGER: Duration = Duration::from_millis(200);
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Maximum time for one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time to write what is queued when the log ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
const CLEAN_INTERVAL: Duration = Duration::from_secs(3600);

/// Counters of a [`UsageLog`].
#[derive(Clone, Debug, Default)]
pub struct UsageLogMetrics {
    /// Records that are stored.
    pub written: Counter,
    /// Records that were lost: the queue was full, or the database was not reachable at the end.
    pub dropped: Counter,
    /// Statements that failed. They are tried again.
    pub failures: Counter,
}

/// Queues records without blocking. A dead database stops no request: up to [`QUEUE_RECORDS`] records wait for it. A crash
/// loses what is queued, in general the records of the last 200 ms.
#[derive(Debug)]
pub struct UsageLog {
    records: mpsc::Sender<(String, UsageRecord)>,
    /// Of this process, so that a record is stored once even if it is sent twice.
    instance: u64,
    next: AtomicU64,
    dropped: Counter,
}

impl UsageLog {
    /// The log and its writer. The writer runs until the log is dropped and all records are written, or the database is not
    /// reachable for 10 s. `retention`: records are deleted after this time.
    pub fn new(
        database: Database,
        retention: Duration,
        metrics: UsageLogMetrics,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (records, queue) = mpsc::channel(QUEUE_RECORDS);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let log = Self {
            records,
            instance: started.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(48),
            next: AtomicU64::new(0),
            dropped: metrics.dropped.clone(),
        };
        let writer = Writer { database, retention, metrics, queue, has_table: false, is_failing: false };
        (Arc::new(log), writer.run())
    }

    /// Queues a record.
    pub fn log(&self, record: UsageRecord) {
        let Ok(permit) = self.records.try_reserve() else {
            self.dropped.inc();
            return;
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        permit.send((format!("{:016x}-{number:x}", self.instance), record));
    }
}

struct Writer {
    database: Database,
    retention: Duration,
    metrics: UsageLogMetrics,
    queue: mpsc::Receiver<(String, UsageRecord)>,
    has_table: bool,
    is_failing: bool,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_RECORDS);
        let mut cleaned: Option<Instant> = None;
        // Set when the log has ended.
        let mut deadline = None;
        while self.fill(&mut batch).await {
            if self.queue.is_closed() {
                deadline.get_or_insert_with(|| Instant::now() + SHUTDOWN_TIMEOUT);
            }
            if !self.write(&batch, &mut deadline).await {
                let lost = batch.len() + self.queue.len();
                self.metrics.dropped.inc_by(lost as u64);
                tracing::error!("the usage database is not reachable: {lost} usage records are lost");
                break;
            }
            batch.clear();
            if cleaned.is_none_or(|at| at.elapsed() >= CLEAN_INTERVAL) {
                cleaned = Some(Instant::now());
                self.clean().await;
            }
        }
        // Unfinished statements end with it.
        let _ = timeout(STATEMENT_TIMEOUT, self.database.close()).await;
    }

    /// Waits for records. False at the end.
    async fn fill(&mut self, batch: &mut Vec<(String, UsageRecord)>) -> bool {
        if self.queue.recv_many(batch, BATCH_RECORDS).await == 0 {
            return false;
        }
        let more = async {
            while batch.len() < BATCH_RECORDS
                && self.queue.recv_many(batch, BATCH_RECORDS - batch.len()).await > 0
            {}
        };
        // The linger time is over, or the log has ended.
        let _ = timeout(LINGER, more).await;
        true
    }

    /// Writes a batch, as often as it takes. False after the deadline.
    async fn write(&mut self, batch: &[(String, UsageRecord)], deadline: &mut Option<Instant>) -> bool {
        let mut backoff = MIN_BACKOFF;
        loop {
            let written = timeout(STATEMENT_TIMEOUT, self.try_write(batch)).await;
            let problem = match written {
                Ok(Ok(())) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("usage records are written again");
                    }
                    self.metrics.written.inc_by(batch.len() as u64);
                    return true;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "usage database: no response".to_owned(),
            };
            self.metrics.failures.inc();
            // The table may be gone.
            self.has_table = false;
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(
                    "cannot write usage records, up to {QUEUE_RECORDS} are kept meanwhile: {problem}"
                );
            }
            if self.queue.is_closed() {
                let deadline = deadline.get_or_insert_with(|| Instant::now() + SHUTDOWN_TIMEOUT);
                if Instant::now() >= *deadline {
                    return false;
                }
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(if self.queue.is_closed() { MIN_BACKOFF } else { MAX_BACKOFF });
        }
    }

    async fn try_write(&mut self, batch: &[(String, UsageRecord)]) -> Result<(), Error> {
        if !self.has_table {
            self.database.create_table().await?;
            self.has_table = true;
        }
        self.database.insert(batch).await
    }

    /// Removes old records.
    async fn clean(&self) {
        let Some(oldest) = SystemTime::now().checked_sub(self.retention) else { return };
        match timeout(STATEMENT_TIMEOUT, self.database.delete_before(oldest)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(deleted)) => tracing::info!("{deleted} usage records were older than the retention time"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot delete old usage records"),
            Err(_) => tracing::warn!("cannot delete old usage records: no response"),
        }
    }
}
