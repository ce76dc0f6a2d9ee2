use std::time::SystemTime;

use clap::ValueEnum;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, Error};
use crate::database::millis;

/// What usage is summed up by. `forebay usage --by` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dimension {
    /// Name of the API key, or subject of the token.
    Key,
    /// `group` of the metadata of the API key.
    Group,
    /// Model that clients asked for.
    Model,
    /// Model that served it, without adapters and aliases.
    BaseModel,
    /// InferencePool or Service.
    Pool,
    /// Address of the endpoint.
    Endpoint,
    /// Status code.
    Status,
    /// Day, in UTC. In reports, days since 1970.
    Day,
}

/// What is summed up.
#[derive(Clone, Debug)]
pub struct Report {
    /// Rows have one value for each.
    pub by: Vec<Dimension>,
    /// Requests that ended at this time or later.
    pub since: SystemTime,
    /// Requests that ended before this time.
    pub until: SystemTime,
}

/// The requests with the same values of all dimensions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportRow {
    /// In the order of [`Report::by`]. `None`: requests without one.
    pub values: Vec<Option<String>>,
    /// All requests.
    pub requests: u64,
    /// Requests with a status of 400 or more.
    pub failed: u64,
    /// Requests whose usage is not known. Their tokens are not in the sums.
    pub without_usage: u64,
    /// Sum of the prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Sum of the prompt tokens from the prefix cache.
    pub cached_tokens: u64,
    /// Sum of the generated tokens.
    pub completion_tokens: u64,
    /// Sum of the tokens generated for reasoning.
    pub reasoning_tokens: u64,
    /// Sum of the durations, in seconds.
    pub duration_seconds: f64,
}

const SUMS: &str = "COUNT(*), \
    CAST(SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END) AS BIGINT), \
    CAST(SUM(CASE WHEN prompt_tokens IS NULL AND completion_tokens IS NULL THEN 1 ELSE 0 END) AS BIGINT), \
    CAST(SUM(COALESCE(prompt_tokens, 0)) AS BIGINT), \
    CAST(SUM(COALESCE(cached_tokens, 0)) AS BIGINT), \
    CAST(SUM(COALESCE(completion_tokens, 0)) AS BIGINT), \
    CAST(SUM(COALESCE(reasoning_tokens, 0)) AS BIGINT), \
    SUM(duration_seconds)";

impl Dimension {
    /// `base_model`
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
            Self::Model => "model",
            Self::BaseModel => "base_model",
            Self::Pool => "pool",
            Self::Endpoint => "endpoint",
            Self::Status => "status",
            Self::Day => "day",
        }
    }

    fn expression(self) -> &'static str {
        match self {
            Self::Key => "api_key",
            Self::Group => "key_group",
            Self::Model => "model",
            Self::BaseModel => "COALESCE(base_model, model)",
            Self::Pool => "pool",
            Self::Endpoint => "endpoint",
            Self::Status => "CAST(status AS TEXT)",
            Self::Day => "CAST(time_ms / 86400000 AS TEXT)",
        }
    }
}

impl Database {
    /// Sums up usage. Rows with more tokens come first.
    ///
    /// # Errors
    ///
    /// The database is not reachable, or it has no usage records.
    pub async fn report(&self, report: &Report) -> Result<Vec<ReportRow>, Error> {
        let by: Vec<&str> = report.by.iter().map(|dimension| dimension.expression()).collect();
        let by = by.join(", ");
        let (columns, group, order) = match by.as_str() {
            "" => (String::new(), "HAVING COUNT(*) > 0".to_owned(), String::new()),
            by => (format!("{by}, "), format!("GROUP BY {by}"), format!(", {by}")),
        };
        // Made of constants only.
        let statement = format!(
            "SELECT {columns}{SUMS} FROM forebay_usage WHERE time_ms >= $1 AND time_ms < $2 {group} \
             ORDER BY SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)) DESC, COUNT(*) DESC{order}"
        );
        let query =
            sqlx::query(AssertSqlSafe(statement)).bind(millis(report.since)).bind(millis(report.until));
        let rows = query.fetch_all(&self.pool).await?;
        let first = report.by.len();
        let read = |row: &sqlx::any::AnyRow| {
            let values = (0..first).map(|at| row.try_get(at)).collect::<Result<_, _>>()?;
            let count = |at: usize| -> Result<u64, sqlx::Error> {
                Ok(u64::try_from(row.try_get::<i64, _>(first + at)?).unwrap_or(0))
            };
            Ok(ReportRow {
                values,
                requests: count(0)?,
                failed: count(1)?,
                without_usage: count(2)?,
                prompt_tokens: count(3)?,
                cached_tokens: count(4)?,
                completion_tokens: count(5)?,
                reasoning_tokens: count(6)?,
                duration_seconds: row.try_get(first + 7)?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }
}
