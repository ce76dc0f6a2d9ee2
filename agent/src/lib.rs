//! What the other parts of Forebay share with the node agent: the telemetry
//! contract ([`telemetry`]) and the Kubernetes resources everything reads
//! ([`resources`]).

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "node")]
pub mod discover;
#[cfg(feature = "node")]
pub mod engine;
#[cfg(feature = "node")]
pub mod gpu;
#[cfg(feature = "node")]
pub mod kernel;
#[cfg(feature = "admin")]
pub mod log;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod publish;
#[cfg(feature = "resources")]
pub mod resources;
pub mod telemetry_client;
pub mod tls;

/// `forebay.telemetry.v1`, as generated from `proto/`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    reason = "generated code"
)]
pub mod telemetry {
    tonic::include_proto!("forebay.telemetry.v1");
}
