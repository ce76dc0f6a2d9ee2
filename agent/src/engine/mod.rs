//! Scrapes the metrics and models of engines (vLLM) on this node.

mod adapters;
mod client;
mod labels;
mod metrics;
mod models;
mod scrape;

pub use metrics::{MetricsError, parse as parse_metrics};
pub use scrape::{ScrapeOptions, scrape};
