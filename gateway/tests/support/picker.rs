use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use forebay_grpc::names::{DESTINATION_ENDPOINT, METADATA_LB};
use forebay_grpc::proto::*;
use forebay_service::incoming;
use forebay_service::places::Limits;
use forebay_service::tls::Identity;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::tls::Certificate;
use super::within;

pub type Reply = Result<ProcessingResponse, Status>;

/// Behaviour of a picker in one stream, phase by phase. By default it
/// waits for the whole body, chooses [`Phases::destination`], and sends the body back unchanged.
pub trait Phases: Send + Sync + 'static {
    fn destination(&self) -> String;

    /// Metadata of the stream.
    fn opened(&self, _metadata: &MetadataMap) {}

    fn request_headers(&self, headers: &HttpHeaders) -> Vec<Reply> {
        if headers.end_of_stream { vec![Ok(pick(&self.destination()))] } else { Vec::new() }
    }

    fn request_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
        if end_of_stream { self.whole_body(seen) } else { Vec::new() }
    }

    fn whole_body(&self, seen: &[Bytes]) -> Vec<Reply> {
        let mut replies = vec![Ok(pick(&self.destination()))];
        replies.extend(echo(&seen.concat()).into_iter().map(Ok));
        replies
    }

    /// Further replies at any time. The phases end when they end.
    fn later(&self) -> Option<mpsc::Receiver<Reply>> {
        None
    }

    fn response_headers(&self, _headers: &HttpHeaders) -> Vec<Reply> {
        vec![Ok(response_headers_reply())]
    }

    /// `seen`: all pieces received so far.
    fn response_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
        vec![Ok(echo_response(seen.last().unwrap(), end_of_stream))]
    }

    fn response_trailers(&self, _trailers: &HttpTrailers) -> Vec<Reply> {
        let reply = processing_response::Response::ResponseTrailers(TrailersResponse::default());
        vec![Ok(ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() })]
    }
}

/// A piece of a response body, sent back unchanged.
pub fn echo_response(piece: &[u8], end_of_stream: bool) -> ProcessingResponse {
    let piece = StreamedBodyResponse { body: Bytes::copy_from_slice(piece), end_of_stream };
    response_body_reply(Some(body_mutation::Mutation::StreamedResponse(piece)))
}

pub fn response_body_reply(mutation: Option<body_mutation::Mutation>) -> ProcessingResponse {
    let body_mutation = mutation.map(|mutation| BodyMutation { mutation: Some(mutation) });
    let response = Some(CommonResponse { body_mutation, ..CommonResponse::default() });
    ProcessingResponse {
        response: Some(processing_response::Response::ResponseBody(BodyResponse { response })),
        ..ProcessingResponse::default()
    }
}

pub fn response_headers_reply() -> ProcessingResponse {
    let reply = processing_response::Response::ResponseHeaders(HeadersResponse::default());
    ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() }
}

/// The default behaviour.
pub struct Fixed(pub String);

impl Fixed {
    pub fn at(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl Phases for Fixed {
    fn destination(&self) -> String {
        self.0.clone()
    }
}

/// A reply to headers that chooses `destination`, in header and metadata.
pub fn pick(destination: &str) -> ProcessingResponse {
    let value = Value { kind: Some(Kind::StringValue(destination.to_owned())) };
    let namespace = Struct { fields: [(DESTINATION_ENDPOINT.to_owned(), value)].into() };
    let namespace = Value { kind: Some(Kind::StructValue(namespace)) };
    ProcessingResponse {
        dynamic_metadata: Some(Struct { fields: [(METADATA_LB.to_owned(), namespace)].into() }),
        ..set_headers(&[(DESTINATION_ENDPOINT, destination)])
    }
}

/// A reply to headers that sets headers.
pub fn set_headers(headers: &[(&str, &str)]) -> ProcessingResponse {
    let set_headers = headers
        .iter()
        .map(|(key, value)| HeaderValueOption {
            header: Some(HeaderValue {
                key: (*key).to_owned(),
                raw_value: Bytes::copy_from_slice(value.as_bytes()),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        })
        .collect();
    let mutation = HeaderMutation { set_headers, remove_headers: Vec::new() };
    let response = CommonResponse {
        header_mutation: Some(mutation),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    ProcessingResponse {
        response: Some(processing_response::Response::RequestHeaders(HeadersResponse {
            response: Some(response),
        })),
        ..ProcessingResponse::default()
    }
}

/// Replies that send `body` in pieces of the usual size.
pub fn echo(body: &[u8]) -> Vec<ProcessingResponse> {
    let pieces: Vec<&[u8]> = if body.is_empty() { vec![body] } else { body.chunks(62_000).collect() };
    let last = pieces.len() - 1;
    pieces
        .into_iter()
        .enumerate()
        .map(|(at, piece)| {
            let piece =
                StreamedBodyResponse { body: Bytes::copy_from_slice(piece), end_of_stream: at == last };
            body_reply(Some(body_mutation::Mutation::StreamedResponse(piece)))
        })
        .collect()
}

pub fn body_reply(mutation: Option<body_mutation::Mutation>) -> ProcessingResponse {
    let body_mutation = mutation.map(|mutation| BodyMutation { mutation: Some(mutation) });
    let response = CommonResponse { body_mutation, ..CommonResponse::default() };
    ProcessingResponse {
        response: Some(processing_response::Response::RequestBody(BodyResponse { response: Some(response) })),
        ..ProcessingResponse::default()
    }
}

pub fn immediate(status: i32, body: &str) -> ProcessingResponse {
    let reply = ImmediateResponse {
        status: Some(HttpStatus { code: status }),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..ImmediateResponse::default()
    };
    ProcessingResponse {
        response: Some(processing_response::Response::ImmediateResponse(reply)),
        ..ProcessingResponse::default()
    }
}

/// Messages that a picker received, and the ends of its streams.
#[derive(Debug)]
pub enum Seen {
    Message(Box<ProcessingRequest>),
    Ended,
    Reset,
}

/// A picker on a real socket.
pub struct Picker {
    address: SocketAddr,
    seen: mpsc::Receiver<Seen>,
    _stop: DropGuard,
}

struct Server<P> {
    phases: Arc<P>,
    seen: mpsc::Sender<Seen>,
}

impl Picker {
    pub async fn start(phases: impl Phases) -> Self {
        Self::start_with(phases, None).await
    }

    /// With TLS and this certificate.
    pub async fn start_tls(phases: impl Phases, certificate: &Certificate) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = certificate.write(folder.path());
        Self::start_with(phases, Some(Identity::load(files).unwrap())).await
    }

    /// `None` if the address is in use.
    pub async fn try_start_at(phases: impl Phases, address: SocketAddr) -> Option<Self> {
        let listener = TcpListener::bind(address).await.ok()?;
        Some(Self::serve(phases, None, listener))
    }

    async fn start_with(phases: impl Phases, identity: Option<Arc<Identity>>) -> Self {
        Self::serve(phases, identity, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn serve(phases: impl Phases, identity: Option<Arc<Identity>>, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::channel(10_000);
        let stop = CancellationToken::new();
        let server = external_processor_server::ExternalProcessorServer::new(Server {
            phases: Arc::new(phases),
            seen: sender,
        });
        // Sets TCP_NODELAY, as pickers do. Otherwise replies are delayed by up to 40 ms (delayed acknowledgements).
        let incoming = incoming::accept("test", listener, identity, Limits { total: 1024, per_peer: 1024 });
        let serving = tonic::transport::Server::builder()
            .add_service(server)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Self { address, seen, _stop: stop.drop_guard() }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next event.
    pub async fn seen(&mut self) -> Seen {
        within("the picker to see something", self.seen.recv()).await.expect("the picker lives")
    }

    /// The next event, if it has happened.
    pub fn try_seen(&mut self) -> Option<Seen> {
        self.seen.try_recv().ok()
    }

    pub async fn message(&mut self) -> processing_request::Request {
        match self.seen().await {
            Seen::Message(message) => message.request.expect("a message has a request"),
            other => panic!("expected a message, saw {other:?}"),
        }
    }

    /// Skips messages up to the first one for which `is` is true.
    pub async fn until(&mut self, what: &str, is: impl Fn(&Seen) -> bool) -> Seen {
        within(what, async {
            loop {
                let seen = self.seen.recv().await.expect("the picker lives");
                if is(&seen) {
                    return seen;
                }
            }
        })
        .await
    }
}

#[tonic::async_trait]
impl<P: Phases> external_processor_server::ExternalProcessor for Server<P> {
    type ProcessStream = ReceiverStream<Reply>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        self.phases.opened(request.metadata());
        let mut messages = request.into_inner();
        let (replies, receiver) = mpsc::channel(1_000);
        let (phases, seen) = (self.phases.clone(), self.seen.clone());
        tokio::spawn(async move {
            if let Some(mut later) = phases.later() {
                let replies = replies.clone();
                tokio::spawn(async move {
                    while let Some(reply) = later.recv().await {
                        let _ = replies.send(reply).await;
                    }
                });
            }
            let (mut body, mut response) = (Vec::new(), Vec::new());
            let end = loop {
                let message = match messages.message().await {
                    Ok(Some(message)) => message,
                    Ok(None) => break Seen::Ended,
                    Err(_) => break Seen::Reset,
                };
                let answers = match &message.request {
                    Some(processing_request::Request::RequestHeaders(headers)) => {
                        phases.request_headers(headers)
                    }
                    Some(processing_request::Request::RequestBody(piece)) => {
                        body.push(piece.body.clone());
                        phases.request_body(&body, piece.end_of_stream)
                    }
                    Some(processing_request::Request::ResponseHeaders(headers)) => {
                        phases.response_headers(headers)
                    }
                    Some(processing_request::Request::ResponseBody(piece)) => {
                        response.push(piece.body.clone());
                        phases.response_body(&response, piece.end_of_stream)
                    }
                    Some(processing_request::Request::ResponseTrailers(trailers)) => {
                        phases.response_trailers(trailers)
                    }
                    _ => Vec::new(),
                };
                let _ = seen.send(Seen::Message(Box::new(message))).await;
                for answer in answers {
                    let _ = replies.send(answer).await;
                }
            };
            let _ = seen.send(end).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
