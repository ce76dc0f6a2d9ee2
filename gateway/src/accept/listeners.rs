use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_routing::ListenerPort;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::connection::{Handler, Served, serve};
use super::drain::Drain;
use super::options::ConnectionOptions;
use super::places::Places;
use super::unsent::UnsentTotal;
use crate::hold::HoldBudget;
use crate::observe::ConnectionMetrics;
use crate::runtime::Workers;

/// Pause after an accept that failed for lack of file descriptors or memory. Doubled up to the maximum while it fails.
const MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Minimum time between log messages about failed accepts of one listener.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Bounds of all client connections together.
#[derive(Debug)]
pub(crate) struct ClientLimits {
    pub(crate) max_connections: usize,
    /// Large request heads that have arrived in part count towards it.
    pub(crate) budget: Arc<HoldBudget>,
}

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
    places: Arc<Places>,
    unsent: Arc<UnsentTotal>,
    budget: Arc<HoldBudget>,
    connections: Gauge,
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            options: self.options,
            tasks: self.tasks.clone(),
            workers: self.workers.clone(),
            places: self.places.clone(),
            unsent: self.unsent.clone(),
            budget: self.budget.clone(),
            connections: self.connections.clone(),
        }
    }
}

impl<H: Handler> Listeners<H> {
    /// `limits`: for all listeners. `tasks` tracks the accept loops and the connections. `workers`
    /// run the connections.
    pub(crate) fn new(
        handler: Arc<H>,
        bind_address: IpAddr,
        options: ConnectionOptions,
        limits: ClientLimits,
        tasks: TaskTracker,
        workers: Arc<Workers>,
        metrics: ConnectionMetrics,
    ) -> Self {
        let ClientLimits { max_connections, budget } = limits;
        let places = Places::new(max_connections, metrics.evicted);
        let unsent = Arc::new(UnsentTotal::new(metrics.unsent_bytes));
        let connections = metrics.open;
        let shared = Shared { handler, options, tasks, workers, places, unsent, budget, connections };
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
    let mut failures = AcceptFailures::default();
    loop {
        let accepted = async {
            shared.places.free().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            () = drain.token().cancelled() => return,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                failures.pause(&error, &port).await;
                continue;
            }
        };
        failures.end();
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
            place: shared.places.enter(),
            unsent: shared.unsent.clone(),
            budget: shared.budget.clone(),
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
            drop(assignment);
        };
        shared.tasks.spawn_on(serving, &runtime);
    }
}

/// Failed accepts of one listener.
#[derive(Debug, Default)]
struct AcceptFailures {
    pause: Duration,
    logged: Option<Instant>,
    /// Failures since the last log message.
    count: u64,
}

impl AcceptFailures {
    /// Waits before the next attempt, unless only the accepted connection failed.
    async fn pause(&mut self, error: &io::Error, port: &ListenerPort) {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
        ) {
            return;
        }
        self.count += 1;
        self.pause = (self.pause * 2).clamp(MIN_ACCEPT_PAUSE, MAX_ACCEPT_PAUSE);
        if self.logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                %error, port = port.port, failures = self.count, retry_in = ?self.pause,
                "cannot accept client connections; if file descriptors are exhausted, raise the limit of open files \
                 (RLIMIT_NOFILE)"
            );
            self.count = 0;
        }
        tokio::time::sleep(self.pause).await;
    }

    /// An accept succeeded.
    fn end(&mut self) {
        self.pause = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failed_accepts_wait_longer_each_time_and_are_logged_now_and_then() {
        let port = ListenerPort { port: 80, gateway: None };
        let mut failures = AcceptFailures::default();
        let mut waited = async |error: io::Error| {
            let start = Instant::now();
            failures.pause(&error, &port).await;
            (start.elapsed().as_millis(), failures.count)
        };
        let exhausted = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        for (at, millis) in [50, 100, 200, 400, 800, 1000, 1000].into_iter().enumerate() {
            // The first one is logged. The others are counted for the next message.
            assert_eq!(waited(exhausted()).await, (millis, at as u64));
        }
        assert_eq!(waited(io::ErrorKind::ConnectionAborted.into()).await.0, 0);
        failures.end();
        let start = Instant::now();
        failures.pause(&exhausted(), &port).await;
        assert_eq!(start.elapsed(), MIN_ACCEPT_PAUSE);
    }
}
