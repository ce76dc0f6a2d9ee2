//! The requests that end, passed on one by one to the readers that ask for them.
//!
//! Each reader has a filter, a limit per second and a bounded queue. What does not fit is dropped and counted. Nothing is
//! done for a request while there is no reader.

mod filter;
mod rate;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

pub(super) use filter::Filter;
#[cfg(test)]
pub(super) use filter::InvalidFilter;
use forebay_agent_ebpf::{
    framing::known,
    maps::{Event, EventKind},
};
use forebay_telemetry::v1::{EndedRequest, EndpointKey};
use tokio::sync::mpsc;

use rate::RateLimit;

/// Maximum requests that wait for one reader.
pub(super) const QUEUE: usize = 4_096;

/// Passes ended requests to readers.
#[derive(Debug, Default)]
pub struct RequestFeed {
    readers: Mutex<Vec<Reader>>,
    /// Length of `readers`.
    count: AtomicUsize,
    next_id: AtomicU64,
    /// There will be no more requests.
    closed: AtomicBool,
    totals: Drops,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    filter: Filter,
    rate: RateLimit,
    queue: mpsc::Sender<Ended>,
    drops: Arc<Drops>,
}

/// Matching requests that were not passed on.
#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) over_rate: AtomicU64,
    pub(super) unread: AtomicU64,
}

/// A request that ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    key: Arc<EndpointKey>,
    at_ns: u64,
    aborted: bool,
    status: Option<u16>,
    duration_ns: Option<u64>,
    ttft_ns: Option<u64>,
    response_bytes: Option<u64>,
    response_chunks: Option<u32>,
}

impl Ended {
    /// `None` if the event is not about an end.
    fn new(key: &Arc<EndpointKey>, event: &Event) -> Option<Self> {
        let aborted = match EventKind::from_raw(event.kind)? {
            EventKind::Finished => false,
            EventKind::Aborted => true,
            EventKind::Started | EventKind::FirstBody => return None,
        };
        let is_known = |bit: u8| event.known & u32::from(bit) != 0;
        Some(Self {
            key: Arc::clone(key),
            at_ns: event.at_ns,
            aborted,
            status: (event.status != 0).then_some(event.status),
            duration_ns: is_known(known::DURATION).then_some(event.duration_ns),
            ttft_ns: is_known(known::TTFT).then_some(event.ttft_ns),
            response_bytes: is_known(known::BYTES).then_some(event.response_bytes),
            response_chunks: is_known(known::CHUNKS).then_some(event.response_chunks),
        })
    }
}

impl From<Ended> for EndedRequest {
    fn from(ended: Ended) -> Self {
        Self {
            key: Some(ended.key.as_ref().clone()),
            ended_boottime_ns: ended.at_ns,
            aborted: ended.aborted,
            status: ended.status.map(u32::from),
            duration_ns: ended.duration_ns,
            ttft_ns: ended.ttft_ns,
            response_bytes: ended.response_bytes,
            response_chunks: ended.response_chunks.map(u64::from),
        }
    }
}

impl RequestFeed {
    /// Returns whether there is a reader. Without one, callers need not look for the endpoint of an event.
    pub fn has_readers(&self) -> bool {
        self.readers() != 0
    }

    /// Number of readers.
    pub fn readers(&self) -> u64 {
        self.count.load(Relaxed) as u64
    }

    /// Passes on the requests of an event of the kernel programs. Events about other things are ignored.
    pub fn publish(&self, key: &Arc<EndpointKey>, event: &Event) {
        let Some(ended) = Ended::new(key, event) else { return };
        let mut readers = self.lock();
        for reader in readers.iter_mut().filter(|reader| reader.filter.matches(&ended)) {
            for _ in 0..event.count {
                reader.pass(&ended, &self.totals);
            }
        }
    }

    /// Ends all streams: the events of the kernel programs cannot be read any more.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        let mut readers = self.lock();
        readers.clear();
        self.count.store(0, Relaxed);
    }

    /// Requests over the limit of their reader, of all readers.
    pub fn over_rate_total(&self) -> u64 {
        self.totals.over_rate.load(Relaxed)
    }

    /// Requests that did not fit into the queue of their reader, of all readers.
    pub fn unread_total(&self) -> u64 {
        self.totals.unread.load(Relaxed)
    }

    /// Adds a reader. Returns its id, its queue, and what it loses.
    pub(super) fn add(
        &self,
        filter: Filter,
        max_per_second: u32,
    ) -> (u64, mpsc::Receiver<Ended>, Arc<Drops>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let id = self.next_id.fetch_add(1, Relaxed);
        let drops = Arc::<Drops>::default();
        let rate = RateLimit::per_second(max_per_second);
        let mut readers = self.lock();
        if !self.closed.load(Relaxed) {
            readers.push(Reader { id, filter, rate, queue, drops: Arc::clone(&drops) });
        }
        self.count.store(readers.len(), Relaxed);
        (id, receiver, drops)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut readers = self.lock();
        readers.retain(|reader| reader.id != id);
        self.count.store(readers.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn pass(&mut self, ended: &Ended, totals: &Drops) {
        let dropped = if !self.rate.admits(ended.at_ns) {
            [&self.drops.over_rate, &totals.over_rate]
        } else if self.queue.try_send(ended.clone()).is_err() {
            [&self.drops.unread, &totals.unread]
        } else {
            return;
        };
        for counter in dropped {
            counter.fetch_add(1, Relaxed);
        }
    }
}
