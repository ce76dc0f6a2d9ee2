//! What requests used, in a SQL database: a SQLite file or PostgreSQL.
//!
//! - [`UsageLog`] takes records without blocking, and writes them in batches.
//! - [`Database`] stores records and sums them up ([`Report`]).
//!
//! Records have no prompt, no response and no key.
#![warn(missing_docs)]

mod database;
mod log;
mod record;
mod report;

pub use database::{Database, Error};
pub use log::{UsageLog, UsageLogMetrics};
pub use record::{Tokens, UsageRecord};
pub use report::{Dimension, Report, ReportRow};
