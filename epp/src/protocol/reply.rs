//! Builds the replies.

use bytes::Bytes;

use crate::{Error, schedule::Pick};
use forebay_grpc::names::{
    DESTINATION_ENDPOINT, MAX_STREAMED_BODY_BYTES, METADATA_FOREBAY, METADATA_LB, RESPONSE_UNCHANGED,
};
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, HeaderAppendAction, HeaderMutation,
    HeaderValue, HeaderValueOption, HeadersResponse, HttpBody, HttpStatus, ImmediateResponse, Kind,
    ProcessingMode, ProcessingResponse, StreamedBodyResponse, Struct, TrailersResponse, Value,
    body_mutation::Mutation, processing_response::Response,
};

/// The decision: a request header, and the same value as metadata for load balancers. `reads_body`: the gateway must go on
/// sending the request's body, which is sent back.
pub(super) fn picked(pick: &Pick, reads_body: bool) -> ProcessingResponse {
    let destination = pick.destination();
    let inner = [(DESTINATION_ENDPOINT.to_owned(), string(destination.clone()))].into();
    let lb = Value { kind: Some(Kind::StructValue(Struct { fields: inner })) };
    let unchanged = [(RESPONSE_UNCHANGED.to_owned(), Value { kind: Some(Kind::BoolValue(true)) })].into();
    let forebay = Value { kind: Some(Kind::StructValue(Struct { fields: unchanged })) };
    let fields = [(METADATA_LB.to_owned(), lb), (METADATA_FOREBAY.to_owned(), forebay)].into();
    let request_body_mode = if reads_body { BodySendMode::FullDuplexStreamed } else { BodySendMode::None };
    ProcessingResponse {
        dynamic_metadata: Some(Struct { fields }),
        // The gateway need not send bodies on which the decision does not depend.
        mode_override: Some(ProcessingMode {
            request_body_mode: request_body_mode.into(),
            response_body_mode: BodySendMode::None.into(),
            ..ProcessingMode::default()
        }),
        ..response(Response::RequestHeaders(HeadersResponse {
            response: Some(CommonResponse {
                header_mutation: Some(set_header(DESTINATION_ENDPOINT, destination)),
                clear_route_cache: true,
                ..CommonResponse::default()
            }),
        }))
    }
}

/// The response for an error: HTTP status and body in OpenAI's error format.
pub(super) fn failed(error: &Error) -> ProcessingResponse {
    let status = error.http_status();
    let body = serde_json::json!({
        "error": {
            "message": error.to_string(),
            "type": if status.is_client_error() { "invalid_request_error" } else { "server_error" },
            "param": null,
            "code": error.code(),
        }
    });
    response(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: status.as_u16().into() }),
        headers: Some(set_header("content-type", "application/json".into())),
        body: body.to_string().into(),
        details: error.code().into(),
        ..ImmediateResponse::default()
    }))
}

/// `added`: names and values of headers for the client.
pub(super) fn response_headers(added: Vec<(String, String)>) -> ProcessingResponse {
    let set_headers: Vec<HeaderValueOption> =
        added.into_iter().flat_map(|(name, value)| set_header(&name, value).set_headers).collect();
    let mutation =
        (!set_headers.is_empty()).then(|| HeaderMutation { set_headers, remove_headers: Vec::new() });
    let common = CommonResponse { header_mutation: mutation, ..CommonResponse::default() };
    response(Response::ResponseHeaders(HeadersResponse { response: Some(common) }))
}

pub(super) fn request_trailers() -> ProcessingResponse {
    response(Response::RequestTrailers(TrailersResponse::default()))
}

pub(super) fn response_trailers() -> ProcessingResponse {
    response(Response::ResponseTrailers(TrailersResponse::default()))
}

/// Direction of a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Request,
    Response,
}

impl Body {
    fn reply(self, mutation: Option<Mutation>) -> ProcessingResponse {
        let body_mutation = mutation.map(|mutation| BodyMutation { mutation: Some(mutation) });
        let common = CommonResponse { body_mutation, ..CommonResponse::default() };
        let reply = BodyResponse { response: Some(common) };
        response(match self {
            Self::Request => Response::RequestBody(reply),
            Self::Response => Response::ResponseBody(reply),
        })
    }

    /// One reply per message, without changes.
    pub(super) fn unchanged(self) -> ProcessingResponse {
        self.reply(None)
    }

    /// The same bytes in chunks that proxies accept. The bytes are shared, not copied.
    pub(super) fn echo(self, message: HttpBody) -> impl Iterator<Item = ProcessingResponse> {
        let HttpBody { body: mut rest, end_of_stream } = message;
        let mut ended = rest.is_empty() && !end_of_stream;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let chunk: Bytes = rest.split_to(rest.len().min(MAX_STREAMED_BODY_BYTES));
            ended = rest.is_empty();
            let end_of_stream = ended && end_of_stream;
            Some(
                self.reply(Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body: chunk,
                    end_of_stream,
                }))),
            )
        })
    }
}

fn response(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

/// Sets only `raw_value`: Envoy rejects a header with both kinds of value.
fn set_header(name: &str, value: String) -> HeaderMutation {
    let header = HeaderValue { key: name.to_owned(), value: String::new(), raw_value: value.into() };
    let option = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    HeaderMutation { set_headers: vec![option], remove_headers: Vec::new() }
}

fn string(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}
