//! gRPC over HTTP/2, as little of it as one stream of messages needs. Every request has such a stream, so a picker is
//! as fast as this is: no task, no channel and no box stands between a message and its frame.
//!
//! After gRPC's "over HTTP2" specification: length-prefixed messages, uncompressed, and the status in trailers.

mod inbox;
pub mod names;
mod outbox;
pub mod proto;

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use tonic::{Code, Status};

pub use self::{inbox::Inbox, outbox::Outbox};

/// The path of the one method.
pub const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Bodies may come whole; the default windows of 64 KiB would make them stop and go.
pub const WINDOW_BYTES: u32 = 4 << 20;
/// When nothing was heard for so long, it is asked whether the peer is still there.
///
/// The kernel asks, not HTTP/2: servers of grpc-go end connections on which a client pings more than every five
/// minutes.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);

const PREFIX_BYTES: usize = 5;

/// A message with its prefix.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.push(0);
    // What is encoded here is far smaller; a peer would refuse it anyway.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut bytes);
    bytes.into()
}

/// The status that ends a stream which HTTP/2 ended.
pub fn status_of(error: &h2::Error) -> Status {
    let code = match error.reason() {
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(Reason::REFUSED_STREAM) | None => Code::Unavailable,
        Some(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The status in a response's headers or trailers; nothing if there is none.
pub fn status_in(headers: &HeaderMap) -> Option<Status> {
    // By far the most end so, and need not be parsed.
    if headers.get(STATUS).is_some_and(|status| status == "0") {
        return Some(Status::ok(""));
    }
    Status::from_header_map(headers)
}
