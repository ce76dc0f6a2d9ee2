//! A scripted gateway: the client side of ext_proc streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use forebay_grpc::names::{
    DESTINATION_ENDPOINT, DESTINATION_ENDPOINT_SERVED, DESTINATION_ENDPOINT_SUBSET, METADATA_LB,
    METADATA_SUBSET_HINT, SENDS_PROMPT, TAKES_ENDPOINT_LIST,
};
use forebay_grpc::proto::{
    BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, Kind,
    ListValue, Metadata, ProcessingRequest, ProcessingResponse, ProtocolConfiguration, StreamedBodyResponse,
    Struct, Value, body_mutation::Mutation, external_processor_client::ExternalProcessorClient,
    processing_request::Request, processing_response::Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{DEADLINE, Harness};

pub struct Gateway {
    client: ExternalProcessorClient<Channel>,
    takes_list: bool,
    /// The version of the messages in which it can send prompts.
    sends_prompt: Option<&'static str>,
}

impl Gateway {
    pub async fn connect(harness: &Harness) -> Self {
        Self::connect_from(harness, IpAddr::from(Ipv4Addr::LOCALHOST)).await
    }

    /// A gateway that sends this `:authority`.
    pub async fn connect_as(harness: &Harness, authority: &str) -> Self {
        Self::connect_at(harness.server.grpc_address, authority).await
    }

    /// Like [`Gateway::connect_as`], to this address.
    pub async fn connect_at(address: SocketAddr, authority: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel =
            endpoint.origin(format!("http://{authority}").parse().unwrap()).connect().await.unwrap();
        let client = ExternalProcessorClient::new(channel);
        Self { client, takes_list: true, sends_prompt: None }
    }

    /// A gateway at another address.
    pub async fn connect_from(harness: &Harness, address: IpAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", harness.server.grpc_address)).unwrap();
        let channel = endpoint.local_address(Some(address)).connect().await.unwrap();
        let client = ExternalProcessorClient::new(channel);
        Self { client: client.max_encoding_message_size(64 << 20), takes_list: true, sends_prompt: None }
    }

    /// A gateway that does not accept a list of endpoints.
    pub async fn connect_without_list(harness: &Harness) -> Self {
        Self { takes_list: false, ..Self::connect(harness).await }
    }

    /// A gateway that says that it can send prompts in messages of this version.
    pub async fn connect_with_prompts(harness: &Harness, version: &'static str) -> Self {
        Self { sends_prompt: Some(version), ..Self::connect(harness).await }
    }

    /// A stream for one HTTP request.
    pub async fn open(&self) -> HttpRequest {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<HttpRequest, Status> {
        let (to_picker, outgoing) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        if self.takes_list {
            request.metadata_mut().insert(TAKES_ENDPOINT_LIST, MetadataValue::from_static("1"));
        }
        if let Some(version) = self.sends_prompt {
            request.metadata_mut().insert(SENDS_PROMPT, MetadataValue::from_static(version));
        }
        let replies = self.client.clone().process(request).await?.into_inner();
        Ok(HttpRequest { to_picker: Some(to_picker), replies })
    }

    /// Opens a stream, sends headers, and returns the picked endpoints.
    pub async fn pick(&self) -> (HttpRequest, Vec<String>) {
        let mut request = self.open().await;
        request.send(headers(false)).await;
        let reply = request.reply().await;
        let destination = destination(&reply);
        (request, destination)
    }

    /// Picks and ends the request at once.
    pub async fn pick_and_end(&self) -> String {
        let (mut request, destination) = self.pick().await;
        request.finish();
        request.ended().await.unwrap();
        destination[0].clone()
    }
}

pub struct HttpRequest {
    to_picker: Option<mpsc::Sender<ProcessingRequest>>,
    replies: Streaming<ProcessingResponse>,
}

impl HttpRequest {
    pub async fn send(&self, message: ProcessingRequest) {
        self.to_picker.as_ref().expect("not finished").send(message).await.unwrap();
    }

    /// Sends while this is read.
    pub fn sender(&self) -> mpsc::Sender<ProcessingRequest> {
        self.to_picker.clone().expect("not finished")
    }

    pub async fn send_message(&self, request: Request) {
        self.send(ProcessingRequest { request: Some(request), ..ProcessingRequest::default() }).await;
    }

    pub async fn next(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        tokio::time::timeout(DEADLINE, self.replies.message()).await.expect("a reply in time")
    }

    pub async fn reply(&mut self) -> ProcessingResponse {
        self.next().await.unwrap().expect("a reply")
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        self.to_picker = None;
    }

    /// Waits for the end of the stream. Panics if a reply comes first.
    pub async fn ended(&mut self) -> Result<(), Status> {
        match self.next().await? {
            None => Ok(()),
            Some(reply) => panic!("one reply too many: {reply:?}"),
        }
    }
}

pub fn headers(end_of_stream: bool) -> ProcessingRequest {
    let header = |key: &str, value: &'static str| HeaderValue {
        key: key.into(),
        raw_value: Bytes::from_static(value.as_bytes()),
        ..HeaderValue::default()
    };
    let headers = vec![header(":method", "POST"), header(":path", "/v1/chat/completions")];
    ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders {
            headers: Some(HeaderMap { headers }),
            end_of_stream,
        })),
        ..ProcessingRequest::default()
    }
}

/// Headers of a gateway that sends the body without waiting (`FULL_DUPLEX_STREAMED`).
pub fn headers_before_body(extra: &[(&str, &str)]) -> ProcessingRequest {
    let mut request = headers(false);
    if let Some(Request::RequestHeaders(HttpHeaders { headers: Some(map), .. })) = &mut request.request {
        map.headers.extend(extra.iter().map(|(key, value)| HeaderValue {
            key: (*key).to_owned(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
            ..HeaderValue::default()
        }));
    }
    request.protocol_config = Some(ProtocolConfiguration {
        request_body_mode: BodySendMode::FullDuplexStreamed.into(),
        ..ProtocolConfiguration::default()
    });
    request
}

pub fn with_metadata(
    mut request: ProcessingRequest,
    namespace: &str,
    key: &str,
    value: Kind,
) -> ProcessingRequest {
    let value = Value { kind: Some(value) };
    let namespace = (namespace.to_owned(), Struct { fields: [(key.to_owned(), value)].into() });
    request.metadata_context = Some(Metadata { filter_metadata: [namespace].into(), ..Metadata::default() });
    request
}

pub fn with_subset(subset: Kind) -> ProcessingRequest {
    with_metadata(headers(false), METADATA_SUBSET_HINT, DESTINATION_ENDPOINT_SUBSET, subset)
}

pub fn list(entries: &[&str]) -> Kind {
    let value = |text: &&str| Value { kind: Some(Kind::StringValue((*text).to_owned())) };
    Kind::ListValue(ListValue { values: entries.iter().map(value).collect() })
}

pub fn body(body: impl Into<Bytes>, end_of_stream: bool) -> HttpBody {
    HttpBody { body: body.into(), end_of_stream }
}

pub fn trailers() -> HttpTrailers {
    HttpTrailers { trailers: Some(HeaderMap::default()) }
}

pub fn response_headers(status: &'static str, served: Option<&str>) -> ProcessingRequest {
    let status = HeaderValue {
        key: ":status".into(),
        raw_value: Bytes::from_static(status.as_bytes()),
        ..HeaderValue::default()
    };
    let request = ProcessingRequest {
        request: Some(Request::ResponseHeaders(HttpHeaders {
            headers: Some(HeaderMap { headers: vec![status] }),
            end_of_stream: false,
        })),
        ..ProcessingRequest::default()
    };
    match served {
        Some(served) => {
            with_metadata(request, METADATA_LB, DESTINATION_ENDPOINT_SERVED, Kind::StringValue(served.into()))
        }
        None => request,
    }
}

/// The picked endpoints of a headers response. Asserts that header and metadata are equal.
pub fn destination(reply: &ProcessingResponse) -> Vec<String> {
    let Some(Response::RequestHeaders(headers)) = &reply.response else {
        panic!("no headers response: {reply:?}")
    };
    let mutation = headers.response.as_ref().unwrap().header_mutation.as_ref().unwrap();
    let header = mutation.set_headers[0].header.as_ref().unwrap();
    assert_eq!((mutation.set_headers.len(), header.key.as_str()), (1, DESTINATION_ENDPOINT));
    let text = String::from_utf8(header.raw_value.to_vec()).unwrap();
    let lb = &reply.dynamic_metadata.as_ref().unwrap().fields[METADATA_LB];
    let Some(Kind::StructValue(lb)) = &lb.kind else { panic!("no struct: {lb:?}") };
    assert_eq!(lb.fields[DESTINATION_ENDPOINT].kind, Some(Kind::StringValue(text.clone())));
    text.split(',').map(str::to_owned).collect()
}

pub fn immediate(reply: &ProcessingResponse) -> &ImmediateResponse {
    match &reply.response {
        Some(Response::ImmediateResponse(immediate)) => immediate,
        other => panic!("no immediate response: {other:?}"),
    }
}

/// The `code` of an OpenAI error.
pub fn error_code(immediate: &ImmediateResponse) -> String {
    let body: serde_json::Value = serde_json::from_slice(&immediate.body).unwrap();
    body["error"]["code"].as_str().unwrap().to_owned()
}

/// The chunk in a body response of either direction.
pub fn chunk(reply: &ProcessingResponse) -> StreamedBodyResponse {
    let (Some(Response::RequestBody(body)) | Some(Response::ResponseBody(body))) = &reply.response else {
        panic!("no body response: {reply:?}");
    };
    match &body.response.as_ref().unwrap().body_mutation.as_ref().unwrap().mutation {
        Some(Mutation::StreamedResponse(chunk)) => chunk.clone(),
        other => panic!("not streamed: {other:?}"),
    }
}
