use std::str::FromStr as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions};
use sqlx::query::Query;
use sqlx::{Any, AnyPool, AssertSqlSafe};

use super::UsageRecord;

/// Maximum wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS: u32 = 2;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS forebay_usage (
    id TEXT PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    api_key TEXT,
    key_group TEXT,
    model TEXT NOT NULL,
    base_model TEXT,
    pool TEXT NOT NULL,
    endpoint TEXT,
    status INTEGER NOT NULL,
    error TEXT,
    prompt_tokens BIGINT,
    cached_tokens BIGINT,
    completion_tokens BIGINT,
    reasoning_tokens BIGINT,
    ttft_seconds DOUBLE PRECISION,
    duration_seconds DOUBLE PRECISION NOT NULL
)";
const INDEX: &str = "CREATE INDEX IF NOT EXISTS forebay_usage_time ON forebay_usage (time_ms)";
const COLUMNS: usize = 16;

/// A fault of the database, or of its URL. The text has no password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of a supported database.
    #[error(
        "the URL of the usage database is invalid: {0}. Use sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME"
    )]
    Url(String),
    /// An operation failed. It can be tried again.
    #[error("usage database: {0}")]
    Database(#[from] sqlx::Error),
}

/// A database of usage records. Connections are made when they are needed.
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) pool: AnyPool,
}

impl Database {
    /// The database at `sqlite:PATH` or `postgres://USER:PASSWORD@HOST:PORT/NAME`. A SQLite file is created if it does not
    /// exist. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The URL is invalid.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_sqlite_mode(url, "rwc")
    }

    /// Like [`Database::new`], for reports only: a SQLite file is not created and not changed.
    ///
    /// # Errors
    ///
    /// The URL is invalid.
    pub fn for_reports(url: &str) -> Result<Self, Error> {
        Self::with_sqlite_mode(url, "ro")
    }

    fn with_sqlite_mode(url: &str, mode: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        if !is_sqlite && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Url("unknown scheme".to_owned()));
        }
        let url = if is_sqlite && !url.contains('?') { format!("{url}?mode={mode}") } else { url.to_owned() };
        // The error of a URL may quote parts of it.
        let options =
            AnyConnectOptions::from_str(&url).map_err(|_| Error::Url("it cannot be parsed".to_owned()))?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// Creates the table if it does not exist.
    ///
    /// # Errors
    ///
    /// The database is not reachable, or the table cannot be created.
    pub async fn create_table(&self) -> Result<(), Error> {
        for statement in [TABLE, INDEX] {
            sqlx::query(statement).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Stores records, all or none. A record whose id is stored already is left out.
    ///
    /// # Errors
    ///
    /// The database is not reachable, or it rejects the records.
    pub async fn insert(&self, records: &[(String, UsageRecord)]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let rows: Vec<String> = (0..records.len()).map(placeholders).collect();
        let statement =
            format!("INSERT INTO forebay_usage VALUES {} ON CONFLICT (id) DO NOTHING", rows.join(","));
        // Only placeholders vary.
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for (id, record) in records {
            query = bind(query, id, record);
        }
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Removes records of requests that ended before `time`. Returns their number.
    ///
    /// # Errors
    ///
    /// The database is not reachable.
    pub async fn delete_before(&self, time: SystemTime) -> Result<u64, Error> {
        let deleted = sqlx::query("DELETE FROM forebay_usage WHERE time_ms < $1")
            .bind(millis(time))
            .execute(&self.pool);
        Ok(deleted.await?.rows_affected())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn placeholders(row: usize) -> String {
    let all: Vec<String> = (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
    format!("({})", all.join(","))
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

fn bind<'q>(
    query: Query<'q, Any, AnyArguments>,
    id: &str,
    record: &UsageRecord,
) -> Query<'q, Any, AnyArguments> {
    let tokens = record.tokens.unwrap_or_default();
    let count = |tokens: Option<u64>| tokens.map(|tokens| i64::try_from(tokens).unwrap_or(i64::MAX));
    query
        .bind(id.to_owned())
        .bind(millis(record.time))
        .bind(record.api_key.as_deref().map(text))
        .bind(record.group.as_deref().map(text))
        .bind(text(&record.model))
        .bind(record.base_model.as_deref().map(text))
        .bind(text(&record.pool))
        .bind(record.endpoint.as_deref().map(text))
        .bind(i32::from(record.status))
        .bind(record.error.map(text))
        .bind(count(tokens.prompt))
        .bind(count(tokens.cached))
        .bind(count(tokens.completion))
        .bind(count(tokens.reasoning))
        .bind(record.ttft.map(|ttft| ttft.as_secs_f64()))
        .bind(record.duration.as_secs_f64())
}

/// PostgreSQL has no NUL in texts.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
