use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use forebay_routing::ListenerPort;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::connection::{ConnectionOptions, Handler, Served, serve};
use super::drain::Drain;
use crate::runtime::Workers;

/// Maximum client connections. Further connections wait in the listen queue of the kernel.
const MAX_CONNECTIONS: usize = 65_536;
/// Pause after a failed accept, for example when file descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open ports. The controller keeps them in step with the Gateways.
#[derive(Debug)]
pub(crate) struct Listeners<H> {
    bind_address: IpAddr,
    open: BTreeMap<ListenerPort, Open>,
    shared: Shared<H>,
}

#[derive(Debug)]
struct Open {
    /// The requested port number. 0 means any free port.
    number: u16,
    address: SocketAddr,
    drain: Drain,
}

/// What all listeners share.
#[derive(Debug)]
struct Shared<H> {
    handler: Arc<H>,
    options: ConnectionOptions,
    tasks: TaskTracker,
    workers: Arc<Workers>,
    /// One permit per client connection.
    permits: Arc<Semaphore>,
    connections: Gauge,
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            options: self.options,
            tasks: self.tasks.clone(),
            workers: self.workers.clone(),
            permits: self.permits.clone(),
            connections: self.connections.clone(),
        }
    }
}

impl<H: Handler> Listeners<H> {
    /// `tasks` tracks the accept loops and the connections. `workers` run the connections. `connections` counts them.
    pub(crate) fn new(
        handler: Arc<H>,
        bind_address: IpAddr,
        options: ConnectionOptions,
        tasks: TaskTracker,
        workers: Arc<Workers>,
        connections: Gauge,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let shared = Shared { handler, options, tasks, workers, permits, connections };
        Self { bind_address, open: BTreeMap::new(), shared }
    }

    /// Opens and closes listeners until exactly `ports` are open, each on the port number given for it. Returns the
    /// addresses that could not be opened. A closed listener stops accepting at once and drains its connections.
    pub(crate) async fn set(&mut self, ports: &BTreeMap<ListenerPort, u16>) -> Vec<(SocketAddr, io::Error)> {
        self.open.retain(|port, open| {
            let is_kept = ports.get(port) == Some(&open.number);
            if !is_kept {
                open.drain.begin();
                tracing::info!(address = %open.address, "listener closed");
            }
            is_kept
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

    /// The open addresses.
    pub(crate) fn addresses(&self) -> BTreeMap<ListenerPort, SocketAddr> {
        self.open.iter().map(|(port, open)| (port.clone(), open.address)).collect()
    }

    async fn listen(&self, port: &ListenerPort, address: SocketAddr) -> io::Result<Open> {
        let listener = TcpListener::bind(address).await?;
        let number = address.port();
        let address = listener.local_addr()?;
        let drain = Drain::default();
        let accepting = accept(listener, Arc::new(port.clone()), drain.clone(), self.shared.clone());
        self.shared.tasks.spawn(accepting);
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

async fn accept<H: Handler>(listener: TcpListener, port: Arc<ListenerPort>, drain: Drain, shared: Shared<H>) {
    loop {
        let accepted = async {
            let permit = shared.permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = drain.token().cancelled() => return,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, retry_after = ?ACCEPT_PAUSE, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
        let (stream, assignment) = match (stream, shared.workers.assign()) {
            (Ok(stream), Some(assignment)) => (stream, assignment),
            (Err(error), _) => {
                tracing::debug!(%error, "the client closed its connection before it was served");
                continue;
            }
            (_, None) => continue,
        };
        let served = Served {
            port: port.clone(),
            handler: shared.handler.clone(),
            drain: drain.clone(),
            options: shared.options,
            timer: assignment.timer.clone(),
            tasks: shared.tasks.clone(),
        };
        let connections = shared.connections.clone();
        connections.inc();
        let runtime = assignment.runtime.clone();
        let serving = async move {
            // Registers the socket with the reactor of the worker.
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream, served).await,
                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
            }
            connections.dec();
            drop((assignment, permit));
        };
        shared.tasks.spawn_on(serving, &runtime);
    }
}
