//! A store (Valkey or Redis) in which gateways share what was used of quotas.
//!
//! Each gateway writes its own share as an absolute amount, and reads those of the others: writing it twice changes nothing,
//! and a store that has lost its data is complete again when every gateway has written once. A gateway reserves in the store
//! before it admits a request. Where a limit is far, the store grants an amount in advance, and requests do not wait for it.
//! What a gateway has reserved comes back if it does not call within the lease.
//!
//! One task has the connection and sends all calls, one pipeline after the other. So no call overtakes another one.

mod call;
mod service;

use std::fmt::Debug;
use std::hash::Hash;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};

use super::share::Share;
pub(super) use call::{Call, CallLimit, Reply};
pub(super) use service::Service;

/// Requests that wait for the store. Further ones are handled as if the store was not reachable.
const MAX_WAITING: usize = 4096;

/// Counters that gateways share, in sets that are checked together.
pub(super) trait Shared: Debug + Send + Sync + Sized + 'static {
    /// A set of counters.
    type Place: Clone + Debug + Eq + Hash + Send;
    /// A request that waits for a reservation.
    type Request: Debug + Send;
    /// The answer to it.
    type Outcome: Debug + Send;
    /// What [`Shared::apply`] needs of the call.
    type Sent: Debug + Send;

    /// The call for a set. `grants`: whether an amount may be granted in advance.
    fn call(&self, place: &Self::Place, requests: &[Self::Request], grants: bool) -> (Call, Self::Sent);

    /// Takes over the reply, which may be used until `until`. One outcome for each request.
    fn apply(
        self: &Arc<Self>,
        place: &Self::Place,
        sent: Self::Sent,
        requests: Vec<Self::Request>,
        reply: &Reply,
        until: Instant,
    ) -> Applied<Self::Outcome>;

    /// A call for the set was not answered.
    fn failed(self: &Arc<Self>, place: &Self::Place);

    /// The next call of [`Shared::apply`] tells again whether the set has to be renewed.
    fn renewing(&self, place: &Self::Place);

    /// Adds all sets with something to tell to the changes: the store may have lost its data.
    fn changed_all(self: &Arc<Self>);
}

/// See [`Shared::apply`].
#[derive(Debug)]
pub(super) struct Applied<O> {
    pub(super) outcomes: Vec<O>,
    /// The gateway holds amounts that come back if it does not call, and no renewal is due yet.
    pub(super) must_be_renewed: bool,
}

/// The sets that have changed since they were sent.
#[derive(Debug)]
pub(super) struct Changes<S: Shared>(Arc<Mutex<Vec<Change<S>>>>);

/// All counters of this gateway that are shared.
#[derive(Debug)]
struct Members<S: Shared>(Mutex<Vec<Weak<S>>>);

impl<S: Shared> Members<S> {
    fn add(&self, counters: &Arc<S>) {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|it| it.strong_count() > 0);
        members.push(Arc::downgrade(counters));
    }

    fn all(&self) -> Vec<Arc<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

#[derive(Debug)]
pub(super) struct Change<S: Shared> {
    pub(super) counters: Arc<S>,
    pub(super) place: S::Place,
}

impl<S: Shared> Clone for Changes<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Shared> Changes<S> {
    /// Call it once until the set is sent: the list is bounded by the number of sets.
    pub(super) fn add(&self, counters: Arc<S>, place: S::Place) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Change { counters, place });
    }

    fn take(&self, max: usize) -> Vec<Change<S>> {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() <= max {
            return mem::take(&mut *changes);
        }
        changes.drain(..max).collect()
    }

    fn are_none(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A request of the gateway to the store.
#[derive(Debug)]
struct Ask<S: Shared> {
    counters: Arc<S>,
    place: S::Place,
    /// `None`: the counters are only read.
    request: Option<S::Request>,
    answer: oneshot::Sender<Option<S::Outcome>>,
}

#[derive(Debug)]
struct Status {
    is_up: AtomicBool,
    gateways: AtomicU64,
    /// Gateways before this one.
    rank: AtomicU64,
}

/// What is measured of the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct QuotaStoreMetrics {
    /// Whether the store answers. 0 or 1.
    pub(crate) up: Gauge,
    /// Gateways that use the store.
    pub(crate) gateways: Gauge,
    /// Losses of the connection.
    pub(crate) failures: Counter,
    /// Calls of the scripts.
    pub(crate) calls: Counter,
}

/// The store does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unavailable;

/// How the store is used. Not `Debug`: the URL may contain a password.
#[derive(Clone)]
pub(crate) struct QuotaStoreOptions {
    /// `redis://` or `rediss://` (TLS). May contain a password.
    pub(crate) url: String,
    /// Time after which reservations of a gateway that is gone come back.
    pub(crate) lease: Duration,
}

/// The store is not used any more when the last handle is dropped.
#[derive(Debug)]
pub(super) struct Handle<S: Shared> {
    asks: mpsc::Sender<Ask<S>>,
    changes: Changes<S>,
    members: Arc<Members<S>>,
    status: Arc<Status>,
}

impl<S: Shared> Clone for Handle<S> {
    fn clone(&self) -> Self {
        let Self { asks, changes, members, status } = self;
        Self {
            asks: asks.clone(),
            changes: changes.clone(),
            members: members.clone(),
            status: status.clone(),
        }
    }
}

impl<S: Shared> Handle<S> {
    pub(super) fn changes(&self) -> &Changes<S> {
        &self.changes
    }

    /// Tells the store of new counters.
    pub(super) fn add(&self, counters: &Arc<S>) {
        self.members.add(counters);
    }

    /// The share of this gateway, as far as it was last known which ones use the store.
    pub(super) fn share(&self) -> Share {
        let Status { gateways, rank, .. } = &*self.status;
        Share::new(gateways.load(Ordering::Relaxed), rank.load(Ordering::Relaxed))
    }

    /// Reserves amounts for a request. Cancel-safe: what was reserved for a request that does not wait any more comes back.
    pub(super) async fn reserve(
        &self,
        counters: Arc<S>,
        place: S::Place,
        request: S::Request,
    ) -> Result<S::Outcome, Unavailable> {
        self.ask(counters, place, Some(request)).await?.ok_or(Unavailable)
    }

    /// Reads what other gateways use.
    pub(super) async fn read(&self, counters: Arc<S>, place: S::Place) -> Result<(), Unavailable> {
        self.ask(counters, place, None).await.map(drop)
    }

    async fn ask(
        &self,
        counters: Arc<S>,
        place: S::Place,
        request: Option<S::Request>,
    ) -> Result<Option<S::Outcome>, Unavailable> {
        if !self.status.is_up.load(Ordering::Relaxed) {
            return Err(Unavailable);
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { counters, place, request, answer }).map_err(|_| Unavailable)?;
        answered.await.map_err(|_| Unavailable)
    }
}

/// A set whose reservations have to be renewed.
#[derive(Debug)]
struct Renewal<S: Shared> {
    at: Instant,
    counters: Weak<S>,
    place: S::Place,
}
