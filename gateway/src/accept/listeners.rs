use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::connection::{Ending, Handler, serve};
use super::drain::Drain;
use crate::workers::Workers;
use forebay_routing::ListenerPort;

/// Most connections of clients at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 65_536;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open ports, kept in step with the Gateways.
#[derive(Debug)]
pub(crate) struct Listeners<H> {
    handler: Arc<H>,
    bind_address: IpAddr,
    drain_timeout: Duration,
    tasks: TaskTracker,
    workers: Arc<Workers>,
    open: BTreeMap<ListenerPort, Open>,
    places: Arc<Semaphore>,
    connections: Gauge,
}

#[derive(Debug)]
struct Open {
    /// What was asked for; 0 is any.
    number: u16,
    address: SocketAddr,
    drain: Drain,
}

impl<H: Handler> Listeners<H> {
    /// `tasks` owns the accepting and the connections, which `workers` serve.
    pub(crate) fn new(
        handler: Arc<H>,
        bind_address: IpAddr,
        drain_timeout: Duration,
        tasks: TaskTracker,
        workers: Arc<Workers>,
        connections: Gauge,
    ) -> Self {
        Self {
            handler,
            bind_address,
            drain_timeout,
            tasks,
            workers,
            open: BTreeMap::new(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            connections,
        }
    }

    /// Opens and closes so that exactly `ports` are open, each with the number that stands with it; those that
    /// cannot be opened are given back with the reason. Closing stops accepting at once and drains the connections.
    pub(crate) async fn set(&mut self, ports: &BTreeMap<ListenerPort, u16>) -> Vec<(SocketAddr, io::Error)> {
        self.open.retain(|port, open| {
            let stays = ports.get(port) == Some(&open.number);
            if !stays {
                open.drain.begin();
                tracing::info!(address = %open.address, "listener closed");
            }
            stays
        });
        let mut failed = Vec::new();
        for (port, number) in ports {
            if self.open.contains_key(port) {
                continue;
            }
            let address = SocketAddr::new(self.bind_address, *number);
            match self.listen(port, address).await {
                Ok(open) => {
                    tracing::info!(address = %open.address, "listener opened");
                    self.open.insert(port.clone(), open);
                }
                Err(error) => failed.push((address, error)),
            }
        }
        failed
    }

    /// The open addresses, by the port that the listener's resource names.
    pub(crate) fn addresses(&self) -> BTreeMap<ListenerPort, SocketAddr> {
        self.open.iter().map(|(port, open)| (port.clone(), open.address)).collect()
    }

    async fn listen(&self, port: &ListenerPort, address: SocketAddr) -> io::Result<Open> {
        let listener = TcpListener::bind(address).await?;
        let number = address.port();
        let address = listener.local_addr()?;
        let drain = Drain::default();
        let accepting = accept(Accepting {
            listener,
            port: Arc::new(port.clone()),
            handler: self.handler.clone(),
            drain: drain.clone(),
            drain_timeout: self.drain_timeout,
            tasks: self.tasks.clone(),
            workers: self.workers.clone(),
            places: self.places.clone(),
            connections: self.connections.clone(),
        });
        self.tasks.spawn(accepting);
        Ok(Open { number, address, drain })
    }
}

impl<H> Drop for Listeners<H> {
    fn drop(&mut self) {
        for open in self.open.values() {
            open.drain.begin();
        }
    }
}

struct Accepting<H> {
    listener: TcpListener,
    port: Arc<ListenerPort>,
    handler: Arc<H>,
    drain: Drain,
    drain_timeout: Duration,
    tasks: TaskTracker,
    workers: Arc<Workers>,
    places: Arc<Semaphore>,
    connections: Gauge,
}

async fn accept<H: Handler>(it: Accepting<H>) {
    loop {
        let accepted = async {
            let place = it.places.clone().acquire_owned().await;
            (place, it.listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = it.drain.token().cancelled() => return,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
        let (stream, seat) = match (stream, it.workers.seat()) {
            (Ok(stream), Some(seat)) => (stream, seat),
            (Err(error), _) => {
                tracing::debug!(%error, "a client was gone before it was served");
                continue;
            }
            (_, None) => continue,
        };
        let (port, handler, tasks) = (it.port.clone(), it.handler.clone(), it.tasks.clone());
        let ending = Ending { drain: it.drain.clone(), timeout: it.drain_timeout };
        let connections = it.connections.clone();
        connections.inc();
        let (runtime, beat) = (seat.runtime.clone(), seat.beat.clone());
        let serving = async move {
            // Watched by the worker's own reactor from here.
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream, port, handler, ending, beat, tasks).await,
                Err(error) => tracing::warn!(%error, "a connection could not be served"),
            }
            connections.dec();
            drop((seat, place));
        };
        it.tasks.spawn_on(serving, &runtime);
    }
}
