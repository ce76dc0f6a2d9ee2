//! ext_proc messages over gRPC, directly on HTTP/2 streams.
//!
//! Every HTTP request has one such stream, so this crate does as little per message as possible: no task, channel or
//! allocation of a service stack is between a message and its HTTP/2 frame.
//!
//! The rules come from the gRPC specification, "gRPC over HTTP2" (`PROTOCOL-HTTP2.md`):
//!
//! - section "Requests": `Length-Prefixed-Message` is a compressed flag (1 byte), a big-endian length (4 bytes) and the
//!   message. A message that does not fit in the length is an error ([`Outbox::send`]), and so is one over the limit of
//!   the receiver ([`Inbox`]).
//! - section "Responses": `grpc-status` comes in the trailers, or in the headers of a response without messages
//!   ([`status_in`]).
//! - section "HTTP2 Transport Mapping", "Errors": HTTP/2 error codes map to status codes ([`status_of`]).
//!
//! Not supported:
//!
//! - Compression. A message with the compressed flag ends the stream with `UNIMPLEMENTED`.
//! - `grpc-timeout`. It is neither sent nor read. Callers set their own timeouts.
//! - Methods other than [`PROCESS`], a stream of messages in both directions.
//!
//! # Examples
//!
//! ```
//! use forebay_grpc::{STATUS, status_in};
//! use http::{HeaderMap, HeaderValue};
//!
//! let mut trailers = HeaderMap::new();
//! assert!(status_in(&trailers).is_none());
//! trailers.insert(STATUS, HeaderValue::from_static("14"));
//! assert_eq!(status_in(&trailers).unwrap().code(), tonic::Code::Unavailable);
//! ```
#![warn(missing_docs)]

mod decoder;
mod inbox;
pub mod names;
mod outbox;
mod prefer;
mod prefix;
pub mod proto;
mod status;

use std::time::Duration;

use http::HeaderValue;

pub use self::decoder::{Decoder, MessageBudget};
pub use self::inbox::Inbox;
pub use self::outbox::Outbox;
pub use self::prefer::prefers_reservation;
pub use self::status::{STATUS, status_in, status_of};

/// Path of the method.
pub const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// `Content-Type` of requests and responses.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Initial flow-control window of streams and connections. Messages may contain whole bodies, for which the HTTP/2
/// default of 64 KiB would stall.
pub const WINDOW_BYTES: u32 = 4 << 20;
/// Idle time of a connection after which TCP keepalive probes are sent.
///
/// HTTP/2 pings are not used: servers of grpc-go close connections on which a client pings more often than every five
/// minutes.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
