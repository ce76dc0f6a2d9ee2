//! Places for connections: a total, and a share per peer address.
//!
//! A server with [`Places`] accepts every connection at once, so that a probe never waits behind idle clients. When the
//! places are taken, a connection without an open request is closed for the new one: the oldest one of the same peer if
//! the peer's share is taken, otherwise the oldest one of the peer with the most connections.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Interval of log lines about closed connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all peers together.
    pub total: usize,
    /// Of one peer address.
    pub per_peer: usize,
}

/// The places of one listener.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    /// Names the listener in the log.
    name: &'static str,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    /// By id: the oldest connection is first.
    taken: BTreeMap<u64, Taken>,
    closed_since_log: u64,
    logged_at: Option<Instant>,
}

#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    open_requests: Arc<AtomicUsize>,
    must_close: CancellationToken,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    id: u64,
    peer: IpAddr,
    open_requests: Arc<AtomicUsize>,
    must_close: CancellationToken,
    shared: Arc<Shared>,
}

/// An open request. Its connection is not closed for another one as long as the peer is within its share.
#[derive(Debug)]
pub struct OpenRequest(Arc<AtomicUsize>);

impl Places {
    /// `name` of the listener is in the log.
    pub fn new(name: &'static str, limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, name, table: Mutex::default() }))
    }

    /// A place for a connection of `peer`. `None` if all places that it could take have open requests.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        // Listeners on `::` see IPv4 peers as IPv6 addresses.
        let peer = peer.to_canonical();
        let mut table = self.0.lock();
        if !table.make_room(peer, self.0.limits) {
            table.log(self.0.name, self.0.limits);
            return None;
        }
        let id = table.next_id;
        table.next_id += 1;
        let place = Place {
            id,
            peer,
            open_requests: Arc::default(),
            must_close: CancellationToken::new(),
            shared: Arc::clone(&self.0),
        };
        let taken = Taken {
            peer,
            open_requests: Arc::clone(&place.open_requests),
            must_close: place.must_close.clone(),
        };
        table.taken.insert(id, taken);
        table.log(self.0.name, self.0.limits);
        Some(place)
    }

    /// The next connection that has a place. Waits after errors, which are usually a lack of file descriptors. Cancel
    /// safe.
    pub async fn accept(&self, listener: &TcpListener) -> (TcpStream, Place) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(place) = self.take(peer.ip()) {
                        return (stream, place);
                    }
                }
                Err(error) => {
                    let name = self.0.name;
                    tracing::warn!(%error, listener = name, retry_in = ?ACCEPT_PAUSE, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Connections that have a place.
    pub fn count(&self) -> usize {
        self.0.lock().taken.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether there is a place for `peer`, after a connection was closed for it if necessary.
    fn make_room(&mut self, peer: IpAddr, limits: Limits) -> bool {
        let own = self.count_of(peer);
        let victim = if own >= limits.per_peer {
            self.oldest_idle_of(peer)
        } else if self.taken.len() < limits.total {
            return true;
        } else {
            let (largest, most) = self.largest();
            // A peer with more connections gives one to a peer with fewer, also if all have open requests.
            self.oldest_idle_of(largest)
                .or_else(|| self.oldest_idle())
                .or_else(|| (most > own + 1).then(|| self.newest_of(largest)).flatten())
        };
        self.closed_since_log += 1;
        let Some(taken) = victim.and_then(|id| self.taken.remove(&id)) else { return false };
        taken.must_close.cancel();
        true
    }

    fn count_of(&self, peer: IpAddr) -> usize {
        self.taken.values().filter(|taken| taken.peer == peer).count()
    }

    /// The peer with the most connections, and how many it has.
    fn largest(&self) -> (IpAddr, usize) {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for taken in self.taken.values() {
            *counts.entry(taken.peer).or_default() += 1;
        }
        let largest = counts.into_iter().max_by_key(|(_, count)| *count);
        largest.unwrap_or((IpAddr::from([0, 0, 0, 0]), 0))
    }

    fn oldest_idle_of(&self, peer: IpAddr) -> Option<u64> {
        let mut of_peer = self.taken.iter().filter(|(_, taken)| taken.peer == peer);
        of_peer.find(|(_, taken)| taken.is_idle()).map(|(id, _)| *id)
    }

    fn oldest_idle(&self) -> Option<u64> {
        self.taken.iter().find(|(_, taken)| taken.is_idle()).map(|(id, _)| *id)
    }

    fn newest_of(&self, peer: IpAddr) -> Option<u64> {
        self.taken.iter().rev().find(|(_, taken)| taken.peer == peer).map(|(id, _)| *id)
    }

    fn log(&mut self, name: &str, limits: Limits) {
        let is_due = self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if self.closed_since_log > 0 && is_due {
            tracing::warn!(
                listener = name,
                connections = self.closed_since_log,
                limit = limits.total,
                limit_per_peer = limits.per_peer,
                "connection limit reached: idle or new connections were closed"
            );
            self.closed_since_log = 0;
            self.logged_at = Some(Instant::now());
        }
    }
}

impl Taken {
    fn is_idle(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) == 0
    }
}

impl Place {
    /// Address of the peer.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Cancelled when the connection must be closed for another one.
    pub fn must_close(&self) -> &CancellationToken {
        &self.must_close
    }

    /// Marks the connection as in use until the returned value is dropped.
    pub fn open_request(&self) -> OpenRequest {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(&self.open_requests))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().taken.remove(&self.id);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn places(total: usize, per_peer: usize) -> Places {
        Places::new("test", Limits { total, per_peer })
    }

    fn must_close(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| place.must_close().is_cancelled()).collect()
    }

    #[test]
    fn a_peer_over_its_share_closes_its_own_oldest_idle_connection() {
        let places = places(10, 3);
        let other = places.take(peer(2)).unwrap();
        let own: Vec<Place> = (0..3).map(|_| places.take(peer(1)).unwrap()).collect();
        let _in_use = own[0].open_request();
        let newest = places.take(peer(1)).unwrap();
        assert_eq!(must_close(&own), [false, true, false]);
        assert!(!other.must_close().is_cancelled() && !newest.must_close().is_cancelled());
    }

    #[test]
    fn a_peer_with_requests_on_all_its_places_is_refused_and_others_are_not() {
        let places = places(10, 2);
        let own: Vec<Place> = (0..2).map(|_| places.take(peer(1)).unwrap()).collect();
        let in_use: Vec<OpenRequest> = own.iter().map(Place::open_request).collect();
        assert!(places.take(peer(1)).is_none());
        assert!(places.take(peer(2)).is_some());
        drop(in_use);
        assert!(places.take(peer(1)).is_some());
    }

    #[test]
    fn the_largest_peer_gives_a_place_to_a_new_peer() {
        let places = places(5, 4);
        let small = places.take(peer(1)).unwrap();
        let large: Vec<Place> = (0..4).map(|_| places.take(peer(2)).unwrap()).collect();
        let in_use: Vec<OpenRequest> = large.iter().map(Place::open_request).collect();
        let small_in_use = small.open_request();
        let _new = places.take(peer(3)).expect("a place of the large peer");
        assert_eq!(must_close(&large), [false, false, false, true], "the newest one");
        assert!(!small.must_close().is_cancelled());
        drop((in_use, small_in_use));
    }

    #[test]
    fn closed_connections_release_their_places() {
        let places = places(2, 2);
        let first = places.take("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((first.peer(), places.count()), (peer(1), 1));
        drop(first);
        assert_eq!(places.count(), 0);
    }
}
