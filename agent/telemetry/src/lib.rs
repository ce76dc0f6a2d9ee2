//! The agents' telemetry: the protocol `forebay.telemetry.v1`, its client, and the state that readers keep.
//!
//! - [`client::watch`] keeps one stream to an agent open and delivers frames in order.
//! - [`changes`] says what a frame means for the values before it.
//! - [`recording`] is the file format in which streams are kept.
//! - [`requests`] reads the requests that end, one by one.
//! - [`Replica`] is a copy of an agent's state with all changes applied, and knows the age of each value.
//! - [`signals`] lists the endpoint signals with their names in Prometheus, the CLI and JSON.
//!
//! # Example
//!
//! ```no_run
//! use std::{net::SocketAddr, time::Duration};
//!
//! use forebay_telemetry::{Replica, client::{Event, WatchOptions, watch}};
//!
//! # async fn example(agent: SocketAddr) {
//! let options = WatchOptions {
//!     subscriber: "example".into(),
//!     min_interval: Duration::ZERO,
//!     heartbeat: Duration::from_secs(1),
//!     latencies: false,
//!     tls: None,
//! };
//! let mut replica = Replica::default();
//! watch(agent, &options, |event| match event {
//!     Event::Frame(received) => {
//!         replica.apply(&received);
//!         for endpoint in replica.endpoints() {
//!             let in_flight = endpoint.kernel.as_ref().map(|load| load.in_flight);
//!             println!("{:?}: {in_flight:?} requests in flight", endpoint.key);
//!         }
//!     }
//!     Event::Down { reason, retry_in } => eprintln!("{reason}; retrying in {retry_in:?}"),
//! })
//! .await;
//! # }
//! ```
#![warn(missing_docs)]

mod change;
pub mod client;
mod histogram;
mod liveness;
pub mod recording;
mod replica;
pub mod requests;
pub mod signals;

pub use change::{Change, changes};
pub use histogram::Bucket;
pub use replica::Replica;

/// `forebay.telemetry.v1`, generated from `proto/`.
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

    /// The descriptors of this package, an encoded `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
