//! Which endpoint gets the request: of those that may, the least loaded one.

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
    endpoints::{Endpoints, PickId, Table},
    observe::Metrics,
};

/// The most that one pick names: the best, and where to go when that fails.
pub const MAX_ENDPOINTS_PER_PICK: usize = 3;

/// What of a request, and of whoever asks, the choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// Only these may be picked; `None` is all of the pool.
    pub subset: Option<&'a Subset>,
    /// Whoever asks can go on to the next endpoint when the best fails; else the best alone is named.
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
    /// `endpoints_per_pick`: the most that are named to those who take a list; cut to 1 to
    /// [`MAX_ENDPOINTS_PER_PICK`].
    pub fn new(
        pool: ObjectKey,
        endpoints: Arc<Endpoints>,
        metrics: Arc<Metrics>,
        endpoints_per_pick: usize,
    ) -> Self {
        let endpoints_per_pick = endpoints_per_pick.clamp(1, MAX_ENDPOINTS_PER_PICK);
        Self { pool, endpoints, metrics, endpoints_per_pick }
    }

    pub fn pool(&self) -> &ObjectKey {
        &self.pool
    }

    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// Picks, and counts the request against the best endpoint until the
    /// returned pick is dropped.
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        let now = Instant::now();
        let picked = self.reserve(request, now);
        self.metrics.picked(&picked, now.elapsed());
        picked
    }

    fn reserve(&self, request: &PickRequest<'_>, now: Instant) -> Result<Pick, Error> {
        let table = &mut *self.endpoints.lock();
        let ranked = self.rank(table, request, now)?;
        let addresses: Vec<SocketAddr> = ranked.iter().filter_map(|best| table.address(best.index)).collect();
        let (Some(best), Some(address)) = (ranked.first(), addresses.first()) else {
            return Err(Error::NoReadyEndpoint(self.pool.clone()));
        };
        let id = table.reserve(best.index, now);
        let reservation = Reservation { endpoints: self.endpoints.clone(), address: *address, id };
        Ok(Pick { addresses, reservation })
    }

    /// The best candidates in order. Equals keep the order of their turn.
    fn rank(&self, table: &mut Table, request: &PickRequest<'_>, now: Instant) -> Result<Vec<Ranked>, Error> {
        if !table.pool_exists() {
            return Err(Error::NoPool(self.pool.clone()));
        }
        let stale_after = self.endpoints.stale_after();
        let (mut any, mut any_in_subset) = (false, false);
        let most = if request.takes_list { self.endpoints_per_pick } else { 1 };
        let mut ranked: Vec<Ranked> = Vec::with_capacity(most + 1);
        for (index, slot) in table.in_turn() {
            any = true;
            if request.subset.is_some_and(|subset| !subset.contains(slot.endpoint().address)) {
                continue;
            }
            any_in_subset = true;
            if slot.gpu_lost(now) {
                continue;
            }
            if let Some(age) = slot.first_use(now, stale_after) {
                self.metrics.load_first_used(age);
            }
            let score = slot.score(now, stale_after);
            let place = ranked.iter().position(|other| score < other.score).unwrap_or(ranked.len());
            if place < most {
                ranked.insert(place, Ranked { score, index });
                ranked.truncate(most);
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

/// A decision. The request counts against its endpoint while this lives.
#[derive(Debug)]
pub struct Pick {
    /// Never empty.
    addresses: Vec<SocketAddr>,
    reservation: Reservation,
}

impl Pick {
    /// Where to send the request: the best first, the others in case that fails.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// `ip:port[,ip:port…]`, as the Endpoint Picker Protocol writes it.
    pub fn destination(&self) -> String {
        let mut text = String::with_capacity(self.addresses.len() * 22);
        for (index, address) in self.addresses.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{address}", if index == 0 { "" } else { "," });
        }
        text
    }

    /// Another endpoint than the best one turned out to serve the request: it
    /// counts there from now on.
    pub fn served_by(&mut self, address: SocketAddr) {
        self.reservation.move_to(address);
    }
}

/// One request counted against one endpoint.
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
