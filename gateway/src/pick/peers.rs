use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::transport::{CONNECT_TIMEOUT, Transport};
use crate::workers::{self, Workers};

/// Least HTTP/2 connections to one replica; each worker has one of its own. One connection's loop and its limit
/// of streams must not be a bound on a busy gateway.
const CONNECTIONS_PER_REPLICA: usize = 2;
/// A picker that is gone without a word is noticed after both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies go to the picker whole; the default windows of 64 KiB would make them stop and go.
const WINDOW_BYTES: u32 = 4 << 20;

/// The pickers of all pools, by address. Connections are made when they are first used, and made
/// again when they break.
#[derive(Debug)]
pub(super) struct Peers {
    transport: Transport,
    workers: Arc<Workers>,
    by_address: ArcSwap<HashMap<SocketAddr, Arc<Peer>>>,
    turn: AtomicUsize,
}

/// One replica of a picker.
#[derive(Debug)]
pub(super) struct Peer {
    /// Of each worker in turn.
    channels: Vec<Channel>,
    workers: usize,
    turn: AtomicUsize,
    /// It answered the newest request's headers with the word that it wants no body.
    skips_body: AtomicBool,
}

impl Peers {
    pub(super) fn new(transport: Transport, workers: Arc<Workers>) -> Self {
        Self { transport, workers, by_address: ArcSwap::default(), turn: AtomicUsize::new(0) }
    }

    /// From now on these are the pickers; connections to others end with their last stream.
    pub(super) fn set(&self, addresses: &HashSet<SocketAddr>) {
        let known = self.by_address.load();
        let next = addresses
            .iter()
            .map(|address| {
                (
                    *address,
                    known
                        .get(address)
                        .cloned()
                        .unwrap_or_else(|| Arc::new(Peer::new(*address, &self.transport, &self.workers))),
                )
            })
            .collect();
        self.by_address.store(Arc::new(next));
    }

    /// All replicas, each time beginning with another one.
    pub(super) fn in_turn<'a>(
        &self,
        replicas: &'a [SocketAddr],
    ) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1);
        replicas[first..].iter().chain(&replicas[..first]).copied()
    }

    pub(super) fn get(&self, address: &SocketAddr) -> Option<Arc<Peer>> {
        self.by_address.load().get(address).cloned()
    }
}

impl Peer {
    fn new(address: SocketAddr, transport: &Transport, workers: &Workers) -> Self {
        // `http://` and an address always parse; without channels a peer is one that cannot be reached.
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let connect = |endpoint: &Endpoint, runtime: &Handle| {
            let transport = transport.clone();
            endpoint
                .clone()
                .executor(OnWorker(runtime.clone()))
                // Two ways in turn, each of a connection and a handshake.
                .connect_timeout(CONNECT_TIMEOUT * 4)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .connect_with_connector_lazy(service_fn(move |_| {
                    let transport = transport.clone();
                    async move { transport.connect(address).await.map(TokioIo::new) }
                }))
        };
        let runtimes: Vec<&Handle> = workers.runtimes().collect();
        let connections = CONNECTIONS_PER_REPLICA.next_multiple_of(runtimes.len().max(1));
        let channels = endpoint
            .iter()
            .flat_map(|endpoint| runtimes.iter().cycle().map(move |runtime| connect(endpoint, runtime)))
            .take(connections)
            .collect();
        let workers = runtimes.len();
        Self { channels, workers, turn: AtomicUsize::new(0), skips_body: AtomicBool::new(false) }
    }

    /// Whether the next request's body is likely to be unwanted.
    pub(super) fn skips_body(&self) -> bool {
        self.skips_body.load(Ordering::Relaxed)
    }

    pub(super) fn set_skips_body(&self, skips_body: bool) {
        self.skips_body.store(skips_body, Ordering::Relaxed);
    }

    /// One of those that this thread's worker drives.
    pub(super) fn channel(&self) -> Channel {
        let of_each = self.channels.len() / self.workers.max(1);
        let turn = if of_each > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % of_each } else { 0 };
        let at = workers::index() % self.workers.max(1) + turn * self.workers;
        self.channels[at].clone()
    }
}

/// Runs a connection where its requests come from. It ends with the last of its channels.
#[derive(Clone, Debug)]
struct OnWorker(Handle);

impl<F> hyper::rt::Executor<F> for OnWorker
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, connection: F) {
        self.0.spawn(connection);
    }
}
