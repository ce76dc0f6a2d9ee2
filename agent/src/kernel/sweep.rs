//! Removes stale connections and compares the gauges with the connections.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
};

use aya::maps::MapError;
use forebay_agent_ebpf::{framing::Connection, maps::Load};

use super::state::Kernel;

/// Sums over the connections of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    open_requests: i64,
    waiting_bytes: i64,
}

impl Kernel {
    /// Removes stale connections, then compares the gauges with the remaining ones. Returns the number removed.
    ///
    /// Stale are connections of endpoints that are no longer watched, and closed connections found by two sweeps in a
    /// row. Their socket was accepted before the programs were attached, so its end is not reported. The second sweep
    /// leaves time for late segments.
    pub fn sweep(&mut self) -> Result<usize, MapError> {
        let live: HashSet<u32> = self.slots().collect();
        let before = self.loads_of(&live)?;
        let mut closed = HashSet::new();
        let mut sums = HashMap::<u32, Sums>::new();
        let last_closed = std::mem::take(&mut self.closed);
        let removed = self.remove_connections(|cookie, connection| {
            let sum = sums.entry(connection.slot).or_default();
            sum.open_requests += i64::from(connection.open_requests());
            sum.waiting_bytes = sum.waiting_bytes.wrapping_add_unsigned(connection.waiting_bytes());
            if connection.is_closed() {
                closed.insert(cookie);
            }
            !live.contains(&connection.slot) || (connection.is_closed() && last_closed.contains(&cookie))
        })?;
        self.closed = closed;
        self.compare_gauges(&before, &self.loads_of(&live)?, &sums);
        self.drift.retain(|slot, _| live.contains(slot));
        Ok(removed)
    }

    /// Skips gauges that changed during the sweep: load and connections are then not of the same moment.
    fn compare_gauges(
        &mut self,
        before: &HashMap<u32, Load>,
        after: &HashMap<u32, Load>,
        sums: &HashMap<u32, Sums>,
    ) {
        for (&slot, load) in after {
            let Some(before) = before.get(&slot).filter(|it| it.changed_ns == load.changed_ns) else {
                continue;
            };
            let sums = sums.get(&slot).copied().unwrap_or_default();
            let drift = self.drift.entry(slot).or_default();
            if let Some(requests) = drift.in_flight.observe(load.in_flight, sums.open_requests) {
                tracing::warn!(slot, requests, "requests in flight without a connection; gauge corrected");
            }
            if (before.bytes_in, before.waiting_bytes) == (load.bytes_in, load.waiting_bytes)
                && let Some(bytes) = drift.waiting_bytes.observe(load.waiting_bytes, sums.waiting_bytes)
            {
                tracing::warn!(slot, bytes, "waiting request bytes without a connection; gauge corrected");
            }
        }
    }

    fn loads_of(&self, slots: &HashSet<u32>) -> Result<HashMap<u32, Load>, MapError> {
        slots.iter().map(|&slot| Ok((slot, self.loads.get(&slot, 0)?))).collect()
    }

    /// Visits every connection and removes those for which `is_stale` returns `true`.
    pub(super) fn remove_connections(
        &mut self,
        mut is_stale: impl FnMut(u64, &Connection) -> bool,
    ) -> Result<usize, MapError> {
        let mut stale = Vec::new();
        self.for_each_connection(|cookie, connection| {
            if is_stale(cookie, connection) {
                stale.push(cookie);
            }
        })?;
        for cookie in &stale {
            match self.connections.remove(cookie) {
                Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
                    // A program removed it first.
                }
                result => result?,
            }
        }
        Ok(stale.len())
    }
}
