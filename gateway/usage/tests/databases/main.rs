//! Usage records in real databases: SQLite, and PostgreSQL where Debian's package is installed.
#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]
#![allow(clippy::print_stdout, reason = "a test that is skipped must say so")]

mod log;
mod postgres;
mod reports;

use std::time::{Duration, UNIX_EPOCH};

use forebay_usage::{Tokens, UsageRecord};

/// A request for model `m` with the key `sales`, at this second of 1970.
fn record(second: u64) -> UsageRecord {
    UsageRecord {
        time: UNIX_EPOCH + Duration::from_secs(second),
        api_key: Some("sales".to_owned()),
        group: Some("eu".to_owned()),
        model: "m".to_owned(),
        base_model: None,
        pool: "ns/p".to_owned(),
        endpoint: Some("10.0.0.1:8000".to_owned()),
        status: 200,
        error: None,
        tokens: Some(Tokens { prompt: Some(10), cached: Some(4), completion: Some(3), reasoning: None }),
        ttft: Some(Duration::from_millis(125)),
        duration: Duration::from_millis(500),
    }
}
