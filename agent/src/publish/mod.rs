//! What the node knows, and everyone it is told to: gRPC streams, Prometheus,
//! health.

mod board;
mod grpc;
mod http;
mod prometheus;
mod subscription;

pub use board::{Board, Reading};
pub use grpc::TelemetryService;
pub use http::{Readiness, serve_http};
pub use subscription::{Subscription, WatchOptions};
