//! Messages to a picker.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_grpc::names::{
    DESTINATION_ENDPOINT_SERVED, DESTINATION_ENDPOINT_SUBSET, EXPLAIN, METADATA_FOREBAY, METADATA_LB,
    METADATA_SUBSET_HINT, POOL, RESERVE,
};
use forebay_grpc::proto::{
    BodySendMode, HeaderMap as Headers, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, Kind, ListValue,
    Metadata, ProcessingRequest, ProtocolConfiguration, Struct, Value, processing_request::Request,
};
use http::{HeaderMap, request, response};

use super::wanted::Wanted;
use crate::hold::HeldBody;

/// Maximum body bytes per message. gRPC servers commonly accept messages up to 4 MiB.
const MAX_PIECE_BYTES: usize = 256 << 10;

/// How the bodies of a request are sent to a picker.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyModes {
    pub(super) request: BodySendMode,
    pub(super) response: BodySendMode,
}

pub(super) fn request_headers(
    head: &request::Parts,
    host: &str,
    end_of_stream: bool,
    modes: BodyModes,
    metadata: Metadata,
) -> ProcessingRequest {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let pseudo =
        [(":method", head.method.as_str()), (":path", path), (":authority", host), (":scheme", "http")];
    ProcessingRequest {
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: modes.request.into(),
            response_body_mode: modes.response.into(),
            send_body_without_waiting_for_header_response: true,
        }),
        ..message(Request::RequestHeaders(headers(pseudo, &head.headers, end_of_stream)), metadata)
    }
}

/// Metadata of all messages about a request: the candidate endpoints, if they are restricted.
pub(super) fn subset_hint(endpoints: Option<&str>) -> Metadata {
    let Some(endpoints) = endpoints else { return Metadata::default() };
    let values = endpoints.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
    let values =
        values.map(|endpoint| Value { kind: Some(Kind::StringValue(endpoint.to_owned())) }).collect();
    let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
    namespace(METADATA_SUBSET_HINT, DESTINATION_ENDPOINT_SUBSET, list)
}

/// Adds what only Forebay's picker reads: the InferencePool of the request, for a picker of many pools, and what is wanted.
pub(super) fn with_hints(mut metadata: Metadata, pool: &str, wanted: &Wanted<'_>) -> Metadata {
    let pool = (POOL, Kind::StringValue(pool.to_owned()));
    let explain = wanted.explains.then_some((EXPLAIN, Kind::BoolValue(true)));
    let reserve = wanted.reserves.then_some((RESERVE, Kind::BoolValue(true)));
    let hints = [Some(pool), explain, reserve].into_iter().flatten();
    let fields = hints.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) })).collect();
    metadata.filter_metadata.insert(METADATA_FOREBAY.to_owned(), Struct { fields });
    metadata
}

/// Metadata of all messages about a response: the endpoint that serves it.
pub(super) fn served_by(endpoint: SocketAddr) -> Metadata {
    let served = Value { kind: Some(Kind::StringValue(endpoint.to_string())) };
    namespace(METADATA_LB, DESTINATION_ENDPOINT_SERVED, served)
}

fn namespace(name: &str, key: &str, value: Value) -> Metadata {
    let namespace = Struct { fields: [(key.to_owned(), value)].into() };
    Metadata { filter_metadata: [(name.to_owned(), namespace)].into(), ..Metadata::default() }
}

pub(super) fn response_headers(
    head: &response::Parts,
    end_of_stream: bool,
    metadata: Metadata,
) -> ProcessingRequest {
    let headers = headers([(":status", head.status.as_str())], &head.headers, end_of_stream);
    message(Request::ResponseHeaders(headers), metadata)
}

pub(super) fn response_body(body: Bytes, end_of_stream: bool, metadata: Metadata) -> ProcessingRequest {
    message(Request::ResponseBody(HttpBody { body, end_of_stream }), metadata)
}

pub(super) fn response_trailers(trailers: &HeaderMap, metadata: Metadata) -> ProcessingRequest {
    let HttpHeaders { headers, .. } = headers([], trailers, true);
    message(Request::ResponseTrailers(HttpTrailers { trailers: headers }), metadata)
}

/// Every message has the metadata context, because pickers differ in which message they read it from.
fn message(request: Request, metadata: Metadata) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        metadata_context: Some(metadata),
        ..ProcessingRequest::default()
    }
}

fn headers<const N: usize>(
    pseudo: [(&str, &str); N],
    headers: &HeaderMap,
    end_of_stream: bool,
) -> HttpHeaders {
    let header = |key: &str, raw_value: Bytes| HeaderValue {
        key: key.to_owned(),
        raw_value,
        ..HeaderValue::default()
    };
    let pseudo = pseudo.into_iter().map(|(key, value)| header(key, Bytes::copy_from_slice(value.as_bytes())));
    let plain =
        headers.iter().map(|(name, value)| header(name.as_str(), Bytes::copy_from_slice(value.as_bytes())));
    HttpHeaders { headers: Some(Headers { headers: pseudo.chain(plain).collect() }), end_of_stream }
}

/// Position up to which a body has been sent to a picker.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    frame: usize,
    offset: usize,
    pub(super) messages: usize,
    pub(super) ended: bool,
}

/// The next piece of a body, and the cursor after it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) message: ProcessingRequest,
    pub(super) then: Cursor,
}

impl Cursor {
    /// `is_empty`: the headers were sent with `end_of_stream`.
    pub(super) fn at_start(is_empty: bool) -> Self {
        Self { ended: is_empty, ..Self::default() }
    }

    /// `None` if no more of the body has arrived, or all of it was sent.
    pub(super) fn next(&self, body: &HeldBody, metadata: &Metadata) -> Option<Piece> {
        if self.ended {
            return None;
        }
        let frames = body.frames();
        let (data, mut then) = match frames.get(self.frame) {
            Some(frame) => {
                let end = frame.len().min(self.offset + MAX_PIECE_BYTES);
                let (frame_at, offset) =
                    if end == frame.len() { (self.frame + 1, 0) } else { (self.frame, end) };
                (frame.slice(self.offset..end), Self { frame: frame_at, offset, ..Self::default() })
            }
            None if body.is_complete() => (Bytes::new(), Self { frame: self.frame, ..Self::default() }),
            None => return None,
        };
        then.messages = self.messages + 1;
        then.ended = body.is_complete() && then.frame == frames.len();
        let body = HttpBody { body: data, end_of_stream: then.ended };
        Some(Piece { message: message(Request::RequestBody(body), metadata.clone()), then })
    }
}
