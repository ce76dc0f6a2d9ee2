//! A decision, and the reservation that it holds.

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use super::{Addresses, Outcome, Pipeline, session};
use crate::endpoints::{Endpoints, PickId};

/// A decision. The request counts as load of its endpoint until the pick is dropped.
#[derive(Debug)]
pub struct Pick {
    /// Never empty.
    pub(super) addresses: Addresses,
    pub(super) matched_bytes: u64,
    pub(super) reservation: Reservation,
    pub(super) pipeline: Arc<Pipeline>,
}

impl Pick {
    /// The picked endpoints, best first. Never empty.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Bytes of the prompt that the best endpoint is believed to have in its cache.
    pub fn matched_bytes(&self) -> u64 {
        self.matched_bytes
    }

    /// Whether [`Pick::response_headers`] will name headers.
    pub fn changes_response(&self) -> bool {
        self.pipeline.token_headers().next().is_some()
    }

    /// Headers for the response to the client: the tokens of sessions. They name the endpoint that serves the request.
    pub fn response_headers(&self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for name in self.pipeline.token_headers() {
            let Reservation { endpoints, address, .. } = &self.reservation;
            let snapshot = endpoints.snapshot();
            if let Some(endpoint) = snapshot.position(*address).and_then(|index| snapshot.endpoint(index)) {
                headers.push((name.to_owned(), session::token(&endpoint.pod)));
            }
        }
        headers
    }

    /// The endpoint at `address` served the request, for example after a retry. The request counts as its load from now on.
    pub fn served_by(&mut self, address: SocketAddr) {
        self.reservation.move_to(address);
    }

    /// The first byte of the response's content is there.
    pub fn first_byte(&self) {
        self.first_byte_at(Instant::now());
    }

    /// Like [`Pick::first_byte`], at another time than now.
    pub fn first_byte_at(&self, now: Instant) {
        let Reservation { endpoints, address, id, .. } = &self.reservation;
        endpoints.first_byte(*address, *id, now);
    }

    /// Takes the blocks that are read after the decision. Independent of the pick.
    pub fn block_sink(&self) -> BlockSink {
        let Reservation { endpoints, address, .. } = &self.reservation;
        BlockSink { endpoints: endpoints.clone(), address: *address }
    }

    /// How the request ends, if nothing else is said before the pick is dropped.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.reservation.outcome = outcome;
    }

    /// The request ended, at another time than now.
    pub fn end_at(mut self, outcome: Outcome, now: Instant) {
        self.reservation.outcome = outcome;
        self.reservation.release(now);
    }
}

/// Takes the blocks of a prompt that are read after the decision.
pub struct BlockSink {
    endpoints: Arc<Endpoints>,
    address: SocketAddr,
}

impl BlockSink {
    /// The endpoint gets a prompt with these blocks. Does nothing if the endpoint is gone.
    pub(super) fn add(&self, blocks: &[u64]) {
        let snapshot = Arc::clone(&self.endpoints.snapshot());
        if let Some(index) = snapshot.position(self.address) {
            self.endpoints.prefixes().insert(snapshot.slot(index), blocks);
        }
    }
}

impl fmt::Debug for BlockSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockSink").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One request in the load of one endpoint.
pub(super) struct Reservation {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) address: SocketAddr,
    pub(super) id: PickId,
    pub(super) outcome: Outcome,
}

impl Reservation {
    fn move_to(&mut self, address: SocketAddr) {
        if address != self.address {
            self.endpoints.move_pick(self.id, self.address, address, Instant::now());
            self.address = address;
        }
    }

    fn release(&self, now: Instant) {
        self.endpoints.release(self.address, self.id, self.outcome, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // A second release of the same pick changes nothing.
        self.release(Instant::now());
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
