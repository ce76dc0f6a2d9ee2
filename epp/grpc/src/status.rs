//! How a stream ended.

use h2::Reason;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

/// Name of the header or trailer with the status code.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status of a stream that HTTP/2 ended with `error` (gRPC over HTTP2, "Errors").
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

/// The status in the headers or trailers of a response (gRPC over HTTP2, "Responses"). `None` if they have none.
pub fn status_in(headers: &HeaderMap) -> Option<Status> {
    // Fast path: most streams end with OK.
    if headers.get(STATUS).is_some_and(|status| status == "0") {
        return Some(Status::ok(""));
    }
    Status::from_header_map(headers)
}
