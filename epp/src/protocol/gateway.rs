use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use forebay_grpc::MessageBudget;
use forebay_service::shares::Shares;

/// The gateway at the other end of a connection.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Bytes of the messages of all gateways.
    message_bytes: Arc<Shares>,
    address: IpAddr,
    relays_responses: AtomicBool,
    stops_bodies: AtomicBool,
}

impl Gateway {
    pub(super) fn new(message_bytes: Arc<Shares>, address: IpAddr) -> Self {
        let [relays_responses, stops_bodies] = [false, false].map(AtomicBool::new);
        Self { message_bytes, address, relays_responses, stops_bodies }
    }

    /// The gateway sent a response body, although the replies to request headers say that it need not.
    pub(super) fn relayed_response(&self) {
        self.relays_responses.store(true, Relaxed);
    }

    /// Whether the first byte of a response will be seen.
    pub(super) fn relays_responses(&self) -> bool {
        self.relays_responses.load(Relaxed)
    }

    /// The gateway did not send the rest of a body after the decision.
    pub(super) fn stopped_body(&self) {
        self.stops_bodies.store(true, Relaxed);
    }

    /// Whether blocks behind an early decision would never be known. A decision then waits for the end of the body.
    pub(super) fn stops_bodies(&self) -> bool {
        self.stops_bodies.load(Relaxed)
    }
}

impl MessageBudget for Gateway {
    fn take(&self, bytes: usize) -> bool {
        self.message_bytes.try_take(self.address, bytes)
    }

    fn release(&self, bytes: usize) {
        self.message_bytes.release(self.address, bytes);
    }
}
