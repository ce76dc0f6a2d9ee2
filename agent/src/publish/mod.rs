//! The node's current state, and how it is served: gRPC streams, Prometheus, readiness.

mod grpc;
mod histograms;
mod http;
mod latencies;
mod prometheus;
mod publisher;
mod request_stream;
mod requests;
mod subscription;

pub use grpc::TelemetryService;
pub use histograms::LatencyHistograms;
pub use http::{Readiness, serve_http};
pub use prometheus::MetricsOptions;
pub use publisher::{LoadReport, Publisher};
pub use requests::RequestFeed;
pub use subscription::{Subscription, WatchOptions};

/// The node's metrics as OpenMetrics text, as `/metrics` serves them.
///
/// # Errors
/// If a value cannot be encoded.
pub fn metrics_text(
    publisher: std::sync::Arc<Publisher>,
    options: MetricsOptions,
) -> Result<String, std::fmt::Error> {
    prometheus::text(&prometheus::registry(publisher, options))
}
