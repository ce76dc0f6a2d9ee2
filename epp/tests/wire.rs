//! Compares our minimal protos with the complete ones of the `envoy-types` crate: both encode every message to the same
//! bytes.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

use std::fmt::Debug;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3 as core, extensions::filters::http::ext_proc::v3 as mode,
        service::ext_proc::v3 as theirs, r#type::v3 as http,
    },
    google::protobuf,
};
use forebay_grpc::proto as ours;
use prost::Message;

/// Asserts that both encode to the same bytes, and that each decodes them.
fn assert_same<O: Message + Default + PartialEq + Debug, T: Message + Default + PartialEq + Debug>(
    our: &O,
    their: &T,
) {
    let bytes = our.encode_to_vec();
    assert_ne!(bytes, Vec::<u8>::new(), "an empty message tests nothing");
    assert_eq!(bytes, their.encode_to_vec());
    assert_eq!(&O::decode(bytes.as_slice()).unwrap(), our);
    assert_eq!(&T::decode(bytes.as_slice()).unwrap(), their);
}

fn our_struct(key: &str, value: &str) -> ours::Struct {
    let kind = Some(ours::Kind::StringValue(value.into()));
    ours::Struct { fields: [(key.to_owned(), ours::Value { kind })].into() }
}

fn their_struct(key: &str, value: &str) -> protobuf::Struct {
    let kind = Some(protobuf::value::Kind::StringValue(value.into()));
    protobuf::Struct { fields: [(key.to_owned(), protobuf::Value { kind })].into() }
}

fn our_headers() -> ours::HeaderMap {
    let header =
        ours::HeaderValue { key: "k".into(), value: "v".into(), raw_value: Bytes::from_static(b"raw") };
    ours::HeaderMap { headers: vec![header] }
}

fn their_headers() -> core::HeaderMap {
    let header = core::HeaderValue { key: "k".into(), value: "v".into(), raw_value: b"raw".to_vec() };
    core::HeaderMap { headers: vec![header] }
}

fn our_mutation() -> ours::HeaderMutation {
    ours::HeaderMutation {
        set_headers: vec![ours::HeaderValueOption {
            header: our_headers().headers.pop(),
            append: Some(true),
            append_action: ours::HeaderAppendAction::OverwriteIfExists.into(),
            keep_empty_value: true,
        }],
        remove_headers: vec!["gone".into()],
    }
}

#[allow(deprecated, reason = "`append` is still sent")]
fn their_mutation() -> theirs::HeaderMutation {
    theirs::HeaderMutation {
        set_headers: vec![core::HeaderValueOption {
            header: their_headers().headers.pop(),
            append: Some(protobuf::BoolValue { value: true }),
            append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExists.into(),
            keep_empty_value: true,
        }],
        remove_headers: vec!["gone".into()],
    }
}

#[test]
fn requests_are_compatible_with_envoy() {
    use ours::processing_request::Request as Our;
    use theirs::processing_request::Request as Their;

    let body = Bytes::from_static(b"body");
    #[allow(deprecated, reason = "the message has a deprecated field")]
    let cases = [
        (
            Our::RequestHeaders(ours::HttpHeaders { headers: Some(our_headers()), end_of_stream: true }),
            Their::RequestHeaders(theirs::HttpHeaders {
                headers: Some(their_headers()),
                attributes: [].into(),
                end_of_stream: true,
            }),
        ),
        (
            Our::ResponseHeaders(ours::HttpHeaders { headers: Some(our_headers()), end_of_stream: false }),
            Their::ResponseHeaders(theirs::HttpHeaders {
                headers: Some(their_headers()),
                attributes: [].into(),
                end_of_stream: false,
            }),
        ),
        (
            Our::RequestBody(ours::HttpBody { body: body.clone(), end_of_stream: true }),
            Their::RequestBody(theirs::HttpBody {
                body: body.to_vec(),
                end_of_stream: true,
                ..Default::default()
            }),
        ),
        (
            Our::ResponseBody(ours::HttpBody { body: body.clone(), end_of_stream: false }),
            Their::ResponseBody(theirs::HttpBody { body: body.to_vec(), ..Default::default() }),
        ),
        (
            Our::RequestTrailers(ours::HttpTrailers { trailers: Some(our_headers()) }),
            Their::RequestTrailers(theirs::HttpTrailers { trailers: Some(their_headers()) }),
        ),
        (
            Our::ResponseTrailers(ours::HttpTrailers { trailers: Some(our_headers()) }),
            Their::ResponseTrailers(theirs::HttpTrailers { trailers: Some(their_headers()) }),
        ),
    ];
    let full_duplex = 4;
    assert_eq!(ours::BodySendMode::FullDuplexStreamed as i32, full_duplex);
    assert_eq!(mode::processing_mode::BodySendMode::FullDuplexStreamed as i32, full_duplex);
    for (our, their) in cases {
        let our = ours::ProcessingRequest {
            request: Some(our),
            metadata_context: Some(ours::Metadata {
                filter_metadata: [("envoy.lb".to_owned(), our_struct("a", "b"))].into(),
                typed_filter_metadata: [("t".to_owned(), prost_types::Any::default())].into(),
            }),
            attributes: [("at".to_owned(), our_struct("c", "d"))].into(),
            observability_mode: true,
            protocol_config: Some(ours::ProtocolConfiguration {
                request_body_mode: full_duplex,
                response_body_mode: 2,
                send_body_without_waiting_for_header_response: true,
            }),
        };
        let their = theirs::ProcessingRequest {
            request: Some(their),
            metadata_context: Some(core::Metadata {
                filter_metadata: [("envoy.lb".to_owned(), their_struct("a", "b"))].into(),
                typed_filter_metadata: [("t".to_owned(), protobuf::Any::default())].into(),
            }),
            attributes: [("at".to_owned(), their_struct("c", "d"))].into(),
            observability_mode: true,
            protocol_config: Some(theirs::ProtocolConfiguration {
                request_body_mode: full_duplex,
                response_body_mode: 2,
                send_body_without_waiting_for_header_response: true,
            }),
            ..Default::default()
        };
        assert_same(&our, &their);
    }
}

#[test]
fn responses_are_compatible_with_envoy() {
    use ours::processing_response::Response as Our;
    use theirs::processing_response::Response as Their;

    let body = Bytes::from_static(b"body");
    let mutations = [
        (
            ours::body_mutation::Mutation::Body(body.clone()),
            theirs::body_mutation::Mutation::Body(body.to_vec()),
        ),
        (ours::body_mutation::Mutation::ClearBody(true), theirs::body_mutation::Mutation::ClearBody(true)),
        (
            ours::body_mutation::Mutation::StreamedResponse(ours::StreamedBodyResponse {
                body: body.clone(),
                end_of_stream: true,
            }),
            theirs::body_mutation::Mutation::StreamedResponse(theirs::StreamedBodyResponse {
                body: body.to_vec(),
                end_of_stream: true,
                ..Default::default()
            }),
        ),
    ];
    let mut cases = Vec::new();
    for (our, their) in mutations {
        let our = ours::CommonResponse {
            status: ours::common_response::ResponseStatus::ContinueAndReplace.into(),
            header_mutation: Some(our_mutation()),
            body_mutation: Some(ours::BodyMutation { mutation: Some(our) }),
            trailers: Some(our_headers()),
            clear_route_cache: true,
        };
        let their = theirs::CommonResponse {
            status: theirs::common_response::ResponseStatus::ContinueAndReplace.into(),
            header_mutation: Some(their_mutation()),
            body_mutation: Some(theirs::BodyMutation { mutation: Some(their) }),
            trailers: Some(their_headers()),
            clear_route_cache: true,
        };
        let (our, their) = (Some(our), Some(their));
        cases.extend([
            (
                Our::RequestHeaders(ours::HeadersResponse { response: our.clone() }),
                Their::RequestHeaders(theirs::HeadersResponse { response: their.clone() }),
            ),
            (
                Our::ResponseHeaders(ours::HeadersResponse { response: our.clone() }),
                Their::ResponseHeaders(theirs::HeadersResponse { response: their.clone() }),
            ),
            (
                Our::RequestBody(ours::BodyResponse { response: our.clone() }),
                Their::RequestBody(theirs::BodyResponse { response: their.clone() }),
            ),
            (
                Our::ResponseBody(ours::BodyResponse { response: our }),
                Their::ResponseBody(theirs::BodyResponse { response: their }),
            ),
        ]);
    }
    cases.extend([
        (
            Our::RequestTrailers(ours::TrailersResponse { header_mutation: Some(our_mutation()) }),
            Their::RequestTrailers(theirs::TrailersResponse { header_mutation: Some(their_mutation()) }),
        ),
        (
            Our::ResponseTrailers(ours::TrailersResponse { header_mutation: Some(our_mutation()) }),
            Their::ResponseTrailers(theirs::TrailersResponse { header_mutation: Some(their_mutation()) }),
        ),
        (
            Our::ImmediateResponse(ours::ImmediateResponse {
                status: Some(ours::HttpStatus { code: 503 }),
                headers: Some(our_mutation()),
                body,
                grpc_status: Some(ours::GrpcStatus { status: 14 }),
                details: "why".into(),
            }),
            Their::ImmediateResponse(theirs::ImmediateResponse {
                status: Some(http::HttpStatus { code: http::StatusCode::ServiceUnavailable.into() }),
                headers: Some(their_mutation()),
                body: b"body".to_vec(),
                grpc_status: Some(theirs::GrpcStatus { status: 14 }),
                details: "why".into(),
            }),
        ),
    ]);
    for (our, their) in cases {
        let modes = (1, 2, 3, 4, 1, 2);
        let our = ours::ProcessingResponse {
            response: Some(our),
            dynamic_metadata: Some(our_struct("a", "b")),
            mode_override: Some(ours::ProcessingMode {
                request_header_mode: modes.0,
                response_header_mode: modes.1,
                request_body_mode: modes.2,
                response_body_mode: modes.3,
                request_trailer_mode: modes.4,
                response_trailer_mode: modes.5,
            }),
            override_message_timeout: Some(prost_types::Duration { seconds: 1, nanos: 2 }),
        };
        let their = theirs::ProcessingResponse {
            response: Some(their),
            dynamic_metadata: Some(their_struct("a", "b")),
            mode_override: Some(mode::ProcessingMode {
                request_header_mode: modes.0,
                response_header_mode: modes.1,
                request_body_mode: modes.2,
                response_body_mode: modes.3,
                request_trailer_mode: modes.4,
                response_trailer_mode: modes.5,
            }),
            override_message_timeout: Some(protobuf::Duration { seconds: 1, nanos: 2 }),
            ..Default::default()
        };
        assert_same(&our, &their);
    }
}

#[test]
fn service_has_envoys_name() {
    use tonic::server::NamedService as _;
    type Ours = ours::external_processor_server::ExternalProcessorServer<()>;
    type Theirs = theirs::external_processor_server::ExternalProcessorServer<()>;
    assert_eq!(Ours::NAME, "envoy.service.ext_proc.v3.ExternalProcessor");
    assert_eq!(Ours::NAME, Theirs::NAME);
}
