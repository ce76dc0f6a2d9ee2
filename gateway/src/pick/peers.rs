use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::transport::{CONNECT_TIMEOUT, Transport};

/// HTTP/2 connections to one replica: one connection's loop and its limit of streams must not be a
/// bound on a busy gateway.
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
    by_address: ArcSwap<HashMap<SocketAddr, Arc<Peer>>>,
    turn: AtomicUsize,
}

/// One replica of a picker.
#[derive(Debug)]
pub(super) struct Peer {
    channels: Vec<Channel>,
    turn: AtomicUsize,
    /// It answered the newest request's headers with the word that it wants no body.
    skips_body: AtomicBool,
}

impl Peers {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, by_address: ArcSwap::default(), turn: AtomicUsize::new(0) }
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
                        .unwrap_or_else(|| Arc::new(Peer::new(*address, &self.transport))),
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
    fn new(address: SocketAddr, transport: &Transport) -> Self {
        // `http://` and an address always parse; without channels a peer is one that cannot be reached.
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let connect = |endpoint: &Endpoint| {
            let transport = transport.clone();
            endpoint
                .clone()
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
        let channels = endpoint
            .iter()
            .flat_map(|endpoint| (0..CONNECTIONS_PER_REPLICA).map(move |_| connect(endpoint)))
            .collect();
        Self { channels, turn: AtomicUsize::new(0), skips_body: AtomicBool::new(false) }
    }

    /// Whether the next request's body is likely to be unwanted.
    pub(super) fn skips_body(&self) -> bool {
        self.skips_body.load(Ordering::Relaxed)
    }

    pub(super) fn set_skips_body(&self, skips_body: bool) {
        self.skips_body.store(skips_body, Ordering::Relaxed);
    }

    pub(super) fn channel(&self) -> Channel {
        let at = self.turn.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        self.channels[at].clone()
    }
}
