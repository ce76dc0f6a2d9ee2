//! The node's current state, and how it is served: gRPC streams, Prometheus, readiness.

mod grpc;
mod http;
mod prometheus;
mod publisher;
mod subscription;

pub use grpc::TelemetryService;
pub use http::{Readiness, serve_http};
pub use publisher::{LoadReport, Publisher};
pub use subscription::{Subscription, WatchOptions};
