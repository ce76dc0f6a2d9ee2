//! Builds the replies.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use bytes::Bytes;
use http::StatusCode;

use crate::Error;
use forebay_grpc::names::{
    DESTINATION_ENDPOINT, EXPLANATION, MAX_STREAMED_BODY_BYTES, METADATA_FOREBAY, METADATA_LB,
    PROMPT_VERSION, RESERVE_ENDPOINT, RESERVED_ENDPOINT, RESPONSE_UNCHANGED, TAKES_PROMPT,
};
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, HeaderAppendAction, HeaderMutation,
    HeaderValue, HeaderValueOption, HeadersResponse, HttpBody, HttpStatus, ImmediateResponse, Kind,
    ProcessingMode, ProcessingResponse, StreamedBodyResponse, Struct, TrailersResponse, Value,
    body_mutation::Mutation, processing_response::Response,
};

/// What only Forebay's gateway reads of a decision.
#[derive(Clone, Debug)]
pub(super) struct Hints {
    /// From now on the gateway may send prompts in messages.
    pub(super) takes_prompt: bool,
    /// The gateway must wait for the replies to the response.
    pub(super) changes_response: bool,
    /// How the endpoint was chosen, if the gateway asks for it.
    pub(super) explanation: Option<String>,
}

impl Hints {
    fn into_metadata(self) -> Option<Value> {
        let unchanged = (!self.changes_response).then_some((RESPONSE_UNCHANGED, Kind::BoolValue(true)));
        let version = self.takes_prompt.then(|| (TAKES_PROMPT, Kind::NumberValue(PROMPT_VERSION.into())));
        let explanation = self.explanation.map(|json| (EXPLANATION, Kind::StringValue(json)));
        forebay([unchanged, version, explanation])
    }
}

/// The values for Forebay's gateway. `None` without any.
fn forebay(values: impl IntoIterator<Item = Option<(&'static str, Kind)>>) -> Option<Value> {
    let fields: BTreeMap<String, Value> = values
        .into_iter()
        .flatten()
        .map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }))
        .collect();
    (!fields.is_empty()).then_some(Value { kind: Some(Kind::StructValue(Struct { fields })) })
}

/// The endpoints in the format of the Endpoint Picker Protocol: `ip:port[,ip:port…]`.
fn destination(endpoints: &[SocketAddr]) -> String {
    let mut text = String::with_capacity(endpoints.len() * 22);
    for (index, endpoint) in endpoints.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{endpoint}", if index == 0 { "" } else { "," });
    }
    text
}

/// The decision: a request header, and the same value as metadata for load balancers. `reads_body`: the gateway must go on
/// sending the request's body, which is sent back.
pub(super) fn picked(endpoints: &[SocketAddr], reads_body: bool, hints: Hints) -> ProcessingResponse {
    let destination = destination(endpoints);
    let inner = [(DESTINATION_ENDPOINT.to_owned(), string(destination.clone()))].into();
    let lb = Value { kind: Some(Kind::StructValue(Struct { fields: inner })) };
    let mut fields: BTreeMap<String, Value> = [(METADATA_LB.to_owned(), lb)].into();
    if let Some(hints) = hints.into_metadata() {
        fields.insert(METADATA_FOREBAY.to_owned(), hints);
    }
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

/// The response for a client that asks which endpoint would be picked.
pub(super) fn reserved(endpoints: &[SocketAddr]) -> ProcessingResponse {
    let endpoint = endpoints.first().map(ToString::to_string).unwrap_or_default();
    let mut headers = set_header(RESERVED_ENDPOINT, endpoint);
    headers.set_headers.extend(set_header("preference-applied", RESERVE_ENDPOINT.into()).set_headers);
    response(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: StatusCode::NO_CONTENT.as_u16().into() }),
        headers: Some(headers),
        details: RESERVE_ENDPOINT.into(),
        ..ImmediateResponse::default()
    }))
}

/// The response for an error: HTTP status and body in OpenAI's error format. `explanation`: see [`Hints`].
pub(super) fn failed(error: &Error, explanation: Option<String>) -> ProcessingResponse {
    let status = error.http_status();
    let body = serde_json::json!({
        "error": {
            "message": error.to_string(),
            "type": if status.is_client_error() { "invalid_request_error" } else { "server_error" },
            "param": null,
            "code": error.code(),
        }
    });
    let hints = forebay([explanation.map(|json| (EXPLANATION, Kind::StringValue(json)))]);
    let dynamic_metadata =
        hints.map(|hints| Struct { fields: [(METADATA_FOREBAY.to_owned(), hints)].into() });
    ProcessingResponse {
        dynamic_metadata,
        ..response(Response::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code: status.as_u16().into() }),
            headers: Some(set_header("content-type", "application/json".into())),
            body: body.to_string().into(),
            details: error.code().into(),
            ..ImmediateResponse::default()
        }))
    }
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
