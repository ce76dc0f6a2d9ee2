//! When the connections are read for the requests in flight.

use std::collections::HashMap;

use aya::maps::MapError;
use tokio::time::Instant;

use crate::kernel::{Kernel, OpenRequests};

/// Pause after a reading, as a multiple of its duration: the readings take at most a fiftieth of a CPU.
const PAUSE_FACTOR: u32 = 50;

/// The requests in flight by slot, as of the last reading of the connections.
#[derive(Debug)]
pub(super) struct ConnectionReader {
    by_slot: HashMap<u32, OpenRequests>,
    next: Instant,
}

impl ConnectionReader {
    pub(super) fn new() -> Self {
        Self { by_slot: HashMap::new(), next: Instant::now() }
    }

    /// `None` if the endpoint had no request in flight when the connections were read.
    pub(super) fn of(&self, slot: u32) -> Option<&OpenRequests> {
        self.by_slot.get(&slot)
    }

    /// Reads the connections if that is due. `has_requests`: an endpoint has requests in flight.
    pub(super) fn refresh(&mut self, kernel: &Kernel, has_requests: bool) -> Result<(), MapError> {
        let started = Instant::now();
        if !has_requests {
            self.by_slot.clear();
        } else if started >= self.next {
            self.by_slot = kernel.open_requests()?;
            self.next = Instant::now() + started.elapsed() * PAUSE_FACTOR;
        }
        Ok(())
    }
}
