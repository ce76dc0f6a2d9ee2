//! HTTP/2 connections to picker replicas.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use forebay_grpc::names::{PROMPT_VERSION, SENDS_PROMPT, TAKES_ENDPOINT_LIST};
use forebay_grpc::{CONTENT_TYPE, KEEP_ALIVE_IDLE, Outbox, PROCESS, WINDOW_BYTES, status_of};
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use tonic::Status;

use super::replies::Replies;
use super::transport::Transport;

/// Maximum size of response headers and trailers of a picker.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// Maximum streams that were reset and are remembered for a second. Frames of others that are still on their way count as
/// errors of the picker. Each client that goes away resets a stream.
const MAX_RESET_STREAMS: usize = 1024;

/// One stream to a picker.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) requests: Outbox,
    pub(super) replies: Replies,
    /// The connection existed before. The picker may have been about to close it.
    pub(super) is_reused: bool,
    pub(super) takes_prompts: TakesPrompts,
}

/// Whether the picker at the other end of a connection takes prompts in messages: false until it says so. Each connection has
/// its own, because the next one may lead to another version of the picker.
#[derive(Clone, Debug, Default)]
pub(super) struct TakesPrompts(Arc<AtomicBool>);

impl TakesPrompts {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, takes_prompts: bool) {
        if self.get() != takes_prompts {
            self.0.store(takes_prompts, Ordering::Relaxed);
        }
    }
}

type Opening = Shared<BoxFuture<'static, Result<SendRequest<Bytes>, Arc<io::Error>>>>;

/// A connection to one replica. It is opened at the first use, and again after it broke.
pub(super) struct Channel {
    address: SocketAddr,
    transport: Transport,
    /// Namespace of the pools that the picker serves.
    namespace: Arc<str>,
    /// Request line of every stream.
    uri: Uri,
    headers: HeaderMap,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the current connection.
    number: u64,
    connection: Connection,
    takes_prompts: TakesPrompts,
}

/// The current connection of a channel.
struct Current {
    number: u64,
    takes_prompts: TakesPrompts,
    sender: Result<SendRequest<Bytes>, Opening>,
}

#[derive(Default)]
enum Connection {
    #[default]
    None,
    /// Driven by the requests that wait for it.
    Opening(Opening),
    Open(SendRequest<Bytes>),
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Channel {
    pub(super) fn new(address: SocketAddr, namespace: Arc<str>, transport: Transport) -> Self {
        let headers = [
            (header::CONTENT_TYPE, CONTENT_TYPE),
            (header::TE, HeaderValue::from_static("trailers")),
            (
                header::USER_AGENT,
                HeaderValue::from_static(concat!("forebay-gateway/", env!("CARGO_PKG_VERSION"))),
            ),
            (HeaderName::from_static(TAKES_ENDPOINT_LIST), HeaderValue::from_static("1")),
            (HeaderName::from_static(SENDS_PROMPT), HeaderValue::from(u16::from(PROMPT_VERSION))),
        ];
        // A socket address is a valid authority, so this always parses.
        let uri = format!("http://{address}{PROCESS}").parse().unwrap_or_default();
        Self {
            address,
            transport,
            namespace,
            uri,
            headers: headers.into_iter().collect(),
            state: Mutex::default(),
        }
    }

    /// Opens a stream. Fails if the replica cannot be reached.
    pub(super) async fn call(&self) -> Result<Call, Status> {
        loop {
            let Current { number, takes_prompts, sender } = self.current();
            let (sender, is_reused) = match sender {
                Ok(open) => (open, true),
                Err(opening) => (self.opened(number, opening.await)?, false),
            };
            let error = match sender.ready().await {
                Ok(mut sender) => match sender.send_request(self.head(), false) {
                    Ok((response, stream)) => {
                        let (requests, replies) = (Outbox::new(stream), Replies::opening(response));
                        return Ok(Call { requests, replies, is_reused, takes_prompts });
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.forget(number);
            if !is_reused {
                return Err(status_of(&error));
            }
        }
    }

    fn head(&self) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.uri.clone();
        *head.headers_mut() = self.headers.clone();
        head
    }

    /// The current connection. Without one, starts to open one.
    fn current(&self) -> Current {
        let mut state = self.lock();
        let sender = match &state.connection {
            Connection::Open(sender) => Ok(sender.clone()),
            Connection::Opening(opening) => Err(opening.clone()),
            Connection::None => {
                let opening =
                    open(self.transport.clone(), self.address, self.namespace.clone()).boxed().shared();
                state.number += 1;
                state.takes_prompts = TakesPrompts::default();
                state.connection = Connection::Opening(opening.clone());
                Err(opening)
            }
        };
        Current { number: state.number, takes_prompts: state.takes_prompts.clone(), sender }
    }

    /// Stores the opened connection, unless a newer one exists.
    fn opened(
        &self,
        number: u64,
        opened: Result<SendRequest<Bytes>, Arc<io::Error>>,
    ) -> Result<SendRequest<Bytes>, Status> {
        let mut state = self.lock();
        if state.number == number && matches!(state.connection, Connection::Opening(_)) {
            state.connection =
                opened.as_ref().map_or(Connection::None, |sender| Connection::Open(sender.clone()));
        }
        opened.map_err(|error| Status::unavailable(format!("cannot connect: {error}")))
    }

    fn forget(&self, number: u64) {
        let mut state = self.lock();
        if state.number == number {
            state.connection = Connection::None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(
    transport: Transport,
    address: SocketAddr,
    namespace: Arc<str>,
) -> Result<SendRequest<Bytes>, Arc<io::Error>> {
    let stream = transport.connect(address, &namespace).await?;
    stream.keep_alive(KEEP_ALIVE_IDLE)?;
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        // Whole bodies are sent to the picker and back.
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    // Runs on the worker of the request. Ends with its last stream once the sender is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "connection to an endpoint picker failed");
        }
    });
    Ok(sender)
}
