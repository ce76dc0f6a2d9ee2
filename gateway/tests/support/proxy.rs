use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use forebay_epp::{PickerOptions, ServerOptions};
use forebay_grpc::WINDOW_BYTES;
use forebay_grpc::names::{METADATA_FOREBAY, TAKES_PROMPT};
use forebay_grpc::proto::external_processor_client::ExternalProcessorClient;
use forebay_grpc::proto::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use forebay_grpc::proto::{
    HttpBody, Kind, ProcessingRequest, ProcessingResponse, processing_request::Request as Message,
};
use forebay_resources::{ObjectKey, ResourceSource};
use prost::Message as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::client::get;
use super::until;

/// `forebay-epp` behind a proxy that records what gateways send.
pub struct ForebayPicker {
    server: forebay_epp::Server,
    _folder: TempDir,
}

/// The connections of gateways to a picker.
pub struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<ProcessingRequest>>>,
    /// Acts as a picker that takes no prompts in messages.
    pub is_older: Arc<AtomicBool>,
    stop: DropGuard,
}

#[derive(Clone)]
struct Service {
    picker: ExternalProcessorClient<Channel>,
    seen: Arc<Mutex<Vec<ProcessingRequest>>>,
    is_older: Arc<AtomicBool>,
}

impl ForebayPicker {
    /// Picks for the pool `qwen` of the manifests.
    pub async fn start(manifests: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifests.yaml"), manifests).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = forebay_epp::Server::start(ServerOptions {
            resources: ResourceSource::Folder(folder.path().to_owned()),
            pools: ObjectKey::new("llm-d", "qwen").into(),
            grpc_listen: vec![any],
            tls: None,
            health_listen: any,
            http_listen: any,
            picker: PickerOptions::default(),
            max_message_bytes: 4 << 20,
            max_streams: 1000,
            obeyed: forebay_epp::protocol::ObeyedHeaders::default(),
            drain_timeout: super::DEADLINE,
        });
        Self { server: server.await.unwrap(), _folder: folder }
    }

    /// The value of a metric with exactly this name and labels. 0 if it does not exist.
    pub async fn metric(&self, name_and_labels: &str) -> f64 {
        let metrics = get(self.server.http_address, "/metrics").await;
        let value = |line: &str| line.strip_prefix(name_and_labels)?.strip_prefix(' ')?.parse().ok();
        metrics.text().lines().find_map(value).unwrap_or(0.0)
    }

    pub async fn proxy(&self) -> Proxy {
        self.proxy_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn proxy_at(&self, address: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let picker = ExternalProcessorClient::connect(format!("http://{}", self.server.grpc_address));
        let (seen, is_older) = (Arc::default(), Arc::default());
        let service = Service {
            picker: picker.await.unwrap().max_decoding_message_size(64 << 20),
            seen: Arc::clone(&seen),
            is_older: Arc::clone(&is_older),
        };
        let stop = CancellationToken::new();
        let serving = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            // The gateway sends no response headers on a stream that is full.
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .add_service(ExternalProcessorServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Proxy { address, seen, is_older, stop: stop.drop_guard() }
    }
}

impl Proxy {
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What gateways sent since the last call.
    pub fn take(&self) -> Vec<ProcessingRequest> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Waits until a gateway has sent response headers.
    pub async fn until_response(&self) {
        let is_response = |it: &ProcessingRequest| matches!(it.request, Some(Message::ResponseHeaders(_)));
        until("the response headers", async || {
            self.seen.lock().unwrap().iter().any(is_response).then_some(())
        })
        .await;
    }

    /// Closes the port and all connections. Returns the address.
    pub fn stop(self) -> SocketAddr {
        drop(self.stop);
        self.address
    }
}

/// Bytes of request bodies in the messages.
pub fn body_bytes(messages: &[ProcessingRequest]) -> usize {
    let bytes = |message: &ProcessingRequest| match &message.request {
        Some(Message::RequestBody(HttpBody { body, .. })) => body.len(),
        _ => 0,
    };
    messages.iter().map(bytes).sum()
}

/// Whether a part of a prompt is in the message.
pub fn has_prompt(message: &ProcessingRequest) -> bool {
    let metadata = message.metadata_context.as_ref();
    metadata.is_some_and(|metadata| metadata.typed_filter_metadata.contains_key(METADATA_FOREBAY))
}

/// Size of the messages.
pub fn encoded_bytes(messages: &[ProcessingRequest]) -> usize {
    messages.iter().map(ProcessingRequest::encoded_len).sum()
}

#[tonic::async_trait]
impl ExternalProcessor for Service {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (metadata, _, messages) = request.into_parts();
        let (seen, is_older) = (self.seen.clone(), self.is_older.clone());
        let messages = messages.map_while(Result::ok).map(move |message| {
            seen.lock().unwrap().push(message.clone());
            message
        });
        let mut forwarded = Request::new(messages);
        *forwarded.metadata_mut() = metadata;
        let replies = self.picker.clone().process(forwarded).await?.into_inner();
        let replies = replies.map(move |reply| {
            reply.map(|mut reply| {
                if is_older.load(Ordering::Relaxed) {
                    hide_prompts(&mut reply);
                }
                reply
            })
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn hide_prompts(reply: &mut ProcessingResponse) {
    let hints = reply.dynamic_metadata.as_mut().and_then(|it| it.fields.get_mut(METADATA_FOREBAY));
    if let Some(Kind::StructValue(hints)) = hints.and_then(|hints| hints.kind.as_mut()) {
        hints.fields.remove(TAKES_PROMPT);
    }
}
