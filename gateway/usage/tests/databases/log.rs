use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_usage::{Database, Report, UsageLog, UsageLogMetrics};

use crate::postgres::Postgres;
use crate::record;

const YEARS: Duration = Duration::from_secs(100 * 365 * 86_400);

async fn stored(database: &Database) -> u64 {
    let all = Report { by: Vec::new(), since: UNIX_EPOCH, until: SystemTime::now() };
    database.report(&all).await.unwrap().first().map_or(0, |row| row.requests)
}

fn sqlite() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("usage.db").display());
    (folder, url)
}

async fn until(is_so: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the condition does not become true");
}

#[tokio::test]
async fn the_end_of_the_log_waits_until_all_is_written() {
    let (_folder, url) = sqlite();
    let metrics = UsageLogMetrics::default();
    let (log, writing) = UsageLog::new(Database::new(&url).unwrap(), YEARS, metrics.clone());
    for second in 0..1234 {
        log.log(record(second));
    }
    drop(log);
    writing.await;
    assert_eq!((metrics.written.get(), metrics.dropped.get(), metrics.failures.get()), (1234, 0, 0));
    assert_eq!(stored(&Database::new(&url).unwrap()).await, 1234);
}

#[tokio::test]
async fn old_records_are_deleted() {
    let (_folder, url) = sqlite();
    let (log, writing) =
        UsageLog::new(Database::new(&url).unwrap(), Duration::from_secs(3600), UsageLogMetrics::default());
    log.log(record(1));
    let mut recent = record(0);
    recent.time = SystemTime::now() - Duration::from_secs(60);
    log.log(recent);
    drop(log);
    writing.await;
    assert_eq!(stored(&Database::new(&url).unwrap()).await, 1);
}

#[tokio::test]
async fn records_wait_for_a_database_that_is_not_reachable() {
    let Some(mut postgres) = Postgres::new() else { return };
    let metrics = UsageLogMetrics::default();
    let (log, writing) = UsageLog::new(Database::new(&postgres.url()).unwrap(), YEARS, metrics.clone());
    let writing = tokio::spawn(writing);
    log.log(record(1));
    until(|| metrics.failures.get() > 0).await;
    postgres.start();
    until(|| metrics.written.get() == 1).await;
    postgres.stop();
    log.log(record(2));
    let failures = metrics.failures.get();
    until(|| metrics.failures.get() > failures).await;
    postgres.start();
    until(|| metrics.written.get() == 2).await;
    drop(log);
    writing.await.unwrap();
    assert_eq!(metrics.dropped.get(), 0);
    assert_eq!(stored(&Database::new(&postgres.url()).unwrap()).await, 2);
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    // A folder cannot be opened as a database.
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().display());
    let metrics = UsageLogMetrics::default();
    let (log, writing) = UsageLog::new(Database::new(&url).unwrap(), YEARS, metrics.clone());
    for second in 0..70_000 {
        log.log(record(second));
    }
    let dropped = 70_000 - 65_536;
    assert_eq!(metrics.dropped.get(), dropped);
    drop(log);
    // Time passes at once while the writer waits.
    tokio::time::pause();
    writing.await;
    assert_eq!((metrics.written.get(), metrics.dropped.get()), (0, 70_000));
}
