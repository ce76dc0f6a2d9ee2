//! The agents' telemetry contract: `forebay.telemetry.v1` and its client.

pub mod client;

/// `forebay.telemetry.v1`, as generated from `proto/`.
#[allow(
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("forebay.telemetry.v1");
}
