//! What vLLM says of itself, read on its own node.

mod client;
mod metrics;
mod models;
mod scrape;

pub use metrics::{MetricsError, parse as parse_metrics};
pub use scrape::{ScrapeOptions, scrape};
