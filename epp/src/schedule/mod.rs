//! Picks endpoints: the eligible endpoints with the lowest scores.

mod subset;

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use forebay_resources::ObjectKey;

pub use self::subset::Subset;
use crate::{
    Error,
    endpoints::{Endpoints, PickId, PoolState},
    metrics::Metrics,
};

/// Maximum endpoints of one decision: the best one and fallbacks.
pub const MAX_ENDPOINTS_PER_PICK: usize = 3;

/// Properties of a request and its gateway that the decision depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// The eligible endpoints. `None`: all endpoints of the pool.
    pub subset: Option<&'a Subset>,
    /// The gateway accepts a list of endpoints, to try the next one when one fails. Otherwise the decision has one endpoint.
    pub takes_list: bool,
}

/// Picks endpoints of one pool.
#[derive(Debug)]
pub struct Scheduler {
    pool: ObjectKey,
    endpoints: Arc<Endpoints>,
    metrics: Arc<Metrics>,
    endpoints_per_pick: usize,
}

impl Scheduler {
    /// `endpoints_per_pick`: maximum endpoints of a decision for gateways that accept a list. Clamped to the range from 1
    /// to [`MAX_ENDPOINTS_PER_PICK`].
    pub fn new(
        pool: ObjectKey,
        endpoints: Arc<Endpoints>,
        metrics: Arc<Metrics>,
        endpoints_per_pick: usize,
    ) -> Self {
        let endpoints_per_pick = endpoints_per_pick.clamp(1, MAX_ENDPOINTS_PER_PICK);
        Self { pool, endpoints, metrics, endpoints_per_pick }
    }

    /// The pool whose endpoints are picked.
    pub fn pool(&self) -> &ObjectKey {
        &self.pool
    }

    /// The endpoints with their load.
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// Picks endpoints. The request counts as load of the best endpoint until the returned pick is dropped.
    ///
    /// # Errors
    ///
    /// The pool does not exist, or it has no eligible endpoint.
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        let now = Instant::now();
        let picked = self.reserve(request, now);
        self.metrics.count_pick(picked.as_ref().err().map(Error::code), now.elapsed());
        picked
    }

    fn reserve(&self, request: &PickRequest<'_>, now: Instant) -> Result<Pick, Error> {
        let state = &mut *self.endpoints.lock();
        let ranked = self.rank(state, request, now)?;
        let addresses: Vec<SocketAddr> = ranked.iter().filter_map(|best| state.address(best.index)).collect();
        let (Some(best), Some(address)) = (ranked.first(), addresses.first()) else {
            return Err(Error::NoReadyEndpoint(self.pool.clone()));
        };
        let id = state.reserve(best.index, now);
        let reservation = Reservation { endpoints: self.endpoints.clone(), address: *address, id };
        Ok(Pick { addresses, reservation })
    }

    /// The endpoints with the lowest scores, in order. Equal scores keep the round-robin order.
    fn rank(
        &self,
        state: &mut PoolState,
        request: &PickRequest<'_>,
        now: Instant,
    ) -> Result<Vec<Ranked>, Error> {
        if !state.pool_exists() {
            return Err(Error::NoPool(self.pool.clone()));
        }
        let stale_after = self.endpoints.stale_after();
        let (mut any, mut any_in_subset) = (false, false);
        let limit = if request.takes_list { self.endpoints_per_pick } else { 1 };
        let mut ranked: Vec<Ranked> = Vec::with_capacity(limit + 1);
        for (index, endpoint) in state.round_robin() {
            any = true;
            if request.subset.is_some_and(|subset| !subset.contains(endpoint.endpoint().address)) {
                continue;
            }
            any_in_subset = true;
            if endpoint.gpu_lost(now) {
                continue;
            }
            if let Some(age) = endpoint.use_kernel_count(now, stale_after) {
                self.metrics.record_load_age(age);
            }
            let score = endpoint.score(now, stale_after);
            let rank = ranked.iter().position(|other| score < other.score).unwrap_or(ranked.len());
            if rank < limit {
                ranked.insert(rank, Ranked { score, index });
                ranked.truncate(limit);
            }
        }
        match ranked.is_empty() {
            false => Ok(ranked),
            true if any_in_subset => Err(Error::GpusLost(self.pool.clone())),
            true if any => Err(Error::OutsideSubset(self.pool.clone())),
            true => Err(Error::NoReadyEndpoint(self.pool.clone())),
        }
    }
}

struct Ranked {
    score: u64,
    index: usize,
}

/// A decision. The request counts as load of its endpoint until the pick is dropped.
#[derive(Debug)]
pub struct Pick {
    /// Never empty.
    addresses: Vec<SocketAddr>,
    reservation: Reservation,
}

impl Pick {
    /// The picked endpoints, best first. Never empty.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The endpoints in the format of the Endpoint Picker Protocol: `ip:port[,ip:port…]`.
    pub fn destination(&self) -> String {
        let mut text = String::with_capacity(self.addresses.len() * 22);
        for (index, address) in self.addresses.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{address}", if index == 0 { "" } else { "," });
        }
        text
    }

    /// The endpoint at `address` served the request, for example after a retry. The request counts as its load from now on.
    pub fn served_by(&mut self, address: SocketAddr) {
        self.reservation.move_to(address);
    }
}

/// One request in the load of one endpoint.
struct Reservation {
    endpoints: Arc<Endpoints>,
    address: SocketAddr,
    id: PickId,
}

impl Reservation {
    fn move_to(&mut self, address: SocketAddr) {
        if address != self.address {
            self.endpoints.move_pick(self.id, self.address, address);
            self.address = address;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.endpoints.release(self.address, self.id);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("address", &self.address)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
