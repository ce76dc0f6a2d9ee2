//! The streams to all agents, and the pools that read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use forebay_resources::{PoolEndpoint, Store};
use forebay_telemetry::client::{self, Event, WatchOptions};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    discovery::AgentOptions,
    routes::{Moved, Pool, Routes},
    stream::AgentStream,
    view::AgentView,
};
use crate::endpoints::Endpoints;

/// The streams to the agents of a process. They end when this and all its readers are dropped.
///
/// Locks are taken in the order stream, routes, pool.
#[derive(Debug)]
pub struct Agents {
    hub: Arc<Hub>,
    _follow: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Hub {
    streams: Mutex<BTreeMap<SocketAddr, Stream>>,
    /// Shared with the streams, which must not keep the hub.
    routes: Arc<RwLock<Routes>>,
    next_reader: AtomicU64,
}

#[derive(Debug)]
struct Stream {
    agent: Arc<Mutex<AgentStream>>,
    _task: AbortOnDropHandle<()>,
}

/// A pool's part of the telemetry. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    agents: Arc<Agents>,
    pool: Pool,
}

impl Agents {
    /// Starts following the agents in `store`. Must be called in a tokio runtime.
    pub(crate) fn start(store: Arc<Store>, options: AgentOptions) -> Arc<Self> {
        let hub = Arc::new(Hub::default());
        let follow = tokio::spawn(follow_agents(store, options, hub.clone()));
        Arc::new(Self { hub, _follow: AbortOnDropHandle::new(follow) })
    }

    /// A pool that reads the telemetry of its members.
    pub(crate) fn reader(self: &Arc<Self>, endpoints: Arc<Endpoints>) -> Reader {
        let id = self.hub.next_reader.fetch_add(1, Relaxed);
        Reader { agents: Arc::clone(self), pool: Pool { id, endpoints } }
    }

    /// The current state of all agents.
    pub fn views(&self) -> Vec<AgentView> {
        self.hub.views(|_| true)
    }
}

impl Reader {
    /// Replaces the members of the pool ([`Endpoints::set_members`]), and applies what the agents have reported of the new
    /// ones.
    pub(crate) fn set_members(&mut self, members: Option<Vec<PoolEndpoint>>) {
        let hub = &self.agents.hub;
        let moved = hub.routes_mut().set(&self.pool, members.as_deref().unwrap_or_default());
        self.pool.endpoints.set_members(members);
        hub.members_changed(&self.pool, &moved);
    }

    /// The current state of the agents that report members of the pool.
    pub(crate) fn views(&self) -> Vec<AgentView> {
        self.agents.hub.views(|agent| agent.is_read_by(self.pool.id))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let hub = &self.agents.hub;
        hub.routes_mut().remove(self.pool.id);
        for agent in hub.agents() {
            lock(&agent).forget(self.pool.id);
        }
    }
}

impl Hub {
    fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        read(&self.routes)
    }

    fn routes_mut(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn agents(&self) -> Vec<Arc<Mutex<AgentStream>>> {
        lock(&self.streams).values().map(|stream| Arc::clone(&stream.agent)).collect()
    }

    fn members_changed(&self, pool: &Pool, moved: &Moved) {
        if moved.is_empty() {
            return;
        }
        for agent in self.agents() {
            lock(&agent).members_changed(pool, &moved.added, &self.routes());
        }
    }

    fn views(&self, is_shown: impl Fn(&AgentStream) -> bool) -> Vec<AgentView> {
        let now = Instant::now();
        let view = |agent: Arc<Mutex<AgentStream>>| {
            let agent = lock(&agent);
            is_shown(&agent).then(|| agent.view(now))
        };
        self.agents().into_iter().filter_map(view).collect()
    }
}

/// Keeps one stream to each agent. Dropping the future closes the streams.
async fn follow_agents(store: Arc<Store>, options: AgentOptions, hub: Arc<Hub>) {
    let mut generations = store.subscribe();
    let watch = Arc::new(options.watch.clone());
    let mut pods = None;
    loop {
        generations.mark_unchanged();
        let snapshot = store.snapshot();
        if pods.as_ref().is_none_or(|pods| !snapshot.pods.is_same(pods)) {
            hub.follow(&options.addresses(&snapshot), &watch);
            pods = Some(snapshot.pods.clone());
        }
        drop(snapshot);
        if generations.changed().await.is_err() {
            return;
        }
    }
}

impl Hub {
    fn follow(&self, wanted: &BTreeSet<SocketAddr>, watch: &Arc<WatchOptions>) {
        let mut streams = lock(&self.streams);
        streams.retain(|address, stream| {
            let stays = wanted.contains(address);
            if !stays {
                lock(&stream.agent).close();
            }
            stays
        });
        for address in wanted {
            streams.entry(*address).or_insert_with(|| {
                let agent = Arc::new(Mutex::new(AgentStream::new(*address)));
                let follow = follow_agent(*address, watch.clone(), agent.clone(), self.routes.clone());
                let follow = follow.instrument(tracing::debug_span!("agent", %address));
                Stream { agent, _task: AbortOnDropHandle::new(tokio::spawn(follow)) }
            });
        }
    }
}

async fn follow_agent(
    address: SocketAddr,
    watch: Arc<WatchOptions>,
    agent: Arc<Mutex<AgentStream>>,
    routes: Arc<RwLock<Routes>>,
) {
    let never = client::watch(address, &watch, |event| match event {
        Event::Frame(received) => lock(&agent).apply(&received, &read(&routes)),
        Event::Down { reason, retry_in } => {
            if lock(&agent).down() {
                tracing::warn!(agent = %address, %reason, "agent telemetry lost; using engine metrics");
            } else {
                tracing::debug!(agent = %address, %reason, ?retry_in, "agent telemetry still lost");
            }
        }
    });
    match never.await {}
}

fn read(routes: &RwLock<Routes>) -> RwLockReadGuard<'_, Routes> {
    routes.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
