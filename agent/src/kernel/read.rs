//! Reading what the programs counted, and sweeping what they cannot clear.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
};

use aya::maps::MapError;
use forebay_agent_ebpf::{
    framing::Connection,
    histogram::{BUCKETS, upper_bound_ns},
    maps::{GpuSample, Histogram, LATENCY_KINDS, Latency, Load, MAX_CONNECTIONS, Stat},
};

use super::load::Kernel;

/// What the programs could not do, since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub segments: u64,
    pub connections_full: u64,
    pub events_dropped: u64,
    pub on_listener: u64,
    pub no_slot: u64,
    /// Of the endpoints watched now.
    pub lost_framing: u64,
}

/// A latency distribution, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    pub count: u64,
    pub sum_ns: u64,
    pub p50_ns: u64,
    pub p95_ns: u64,
    pub p99_ns: u64,
}

/// How far an endpoint's gauge is above its connections' open requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    last_found: i64,
    /// Found twice in a row: taken off what is told.
    settled: i64,
}

impl Kernel {
    /// What was counted at an endpoint. Requests that are in flight by the gauge, and
    /// open on no connection by two sweeps in a row, are told as aborted.
    pub fn load_of(&self, slot: u32) -> Result<Load, MapError> {
        let mut load = self.loads.get(&slot, 0)?;
        let settled = self.drift.get(&slot).map_or(0, |drift| drift.settled);
        load.in_flight = load.in_flight.wrapping_sub_signed(settled);
        load.aborted = load.aborted.wrapping_add_signed(settled);
        Ok(load)
    }

    pub fn histogram(&self, slot: u32, kind: Latency) -> Result<Histogram, MapError> {
        self.latencies.get(&(slot * LATENCY_KINDS + kind as u32), 0)
    }

    pub fn counted(&self) -> Result<Counted, MapError> {
        let sum =
            |stat: Stat| -> Result<u64, MapError> { Ok(self.stats.get(&(stat as u32), 0)?.iter().sum()) };
        Ok(Counted {
            segments: sum(Stat::Segments)?,
            connections_full: sum(Stat::ConnectionsFull)?,
            events_dropped: sum(Stat::EventsDropped)?,
            on_listener: sum(Stat::OnListener)?,
            no_slot: sum(Stat::NoSlot)?,
            lost_framing: self.slots().map(|slot| Ok(self.loads.get(&slot, 0)?.lost_framing)).sum::<Result<
                u64,
                MapError,
            >>(
            )?,
        })
    }

    /// Connections that the programs follow now.
    pub fn connections_followed(&self) -> Result<usize, MapError> {
        self.connections.keys().try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Puts a GPU's sample beside the kernel's maps, for readers on the node.
    pub fn write_gpu(&mut self, index: u32, sample: GpuSample) -> Result<(), MapError> {
        self.gpus.set(index, sample, 0)
    }

    /// Removes connections that nothing will remove any more: closed ones whose
    /// socket was accepted before the agent watched (two sweeps in a row, so that
    /// late segments still find them), and those of endpoints that are gone. Then
    /// compares the gauges with the connections.
    ///
    /// The two can part: a socket that closes on one CPU while its next request
    /// arrives on another frees its entry under the program's hands.
    pub fn sweep(&mut self) -> Result<usize, MapError> {
        let live: HashSet<u32> = self.slots().collect();
        let before = self.loads_of(&live)?;
        let mut closed = HashSet::new();
        let mut open = HashMap::<u32, i64>::new();
        let last_closed = std::mem::take(&mut self.closed);
        let removed = {
            let mut is_stale = |cookie: u64, connection: &Connection| {
                *open.entry(connection.slot).or_default() += i64::from(connection.open_requests());
                if connection.is_closed() {
                    closed.insert(cookie);
                }
                !live.contains(&connection.slot) || (connection.is_closed() && last_closed.contains(&cookie))
            };
            self.forget(&mut is_stale)?
        };
        self.closed = closed;
        for (slot, load) in self.loads_of(&live)? {
            // Something happened in between, so the two are not of one moment.
            if before.get(&slot).is_none_or(|before| before.changed_ns != load.changed_ns) {
                continue;
            }
            let found = (load.in_flight as i64).wrapping_sub(open.get(&slot).copied().unwrap_or(0));
            let drift = self.drift.entry(slot).or_default();
            if found == drift.last_found && found != drift.settled {
                tracing::warn!(slot, drift = found, "in-flight requests that no connection has; corrected");
                drift.settled = found;
            }
            drift.last_found = found;
        }
        self.drift.retain(|slot, _| live.contains(slot));
        Ok(removed)
    }

    /// Of the endpoints watched now.
    fn slots(&self) -> impl Iterator<Item = u32> {
        self.attached.values().flat_map(|pod| pod.slots.iter().map(|(_, slot)| *slot))
    }

    fn loads_of(&self, slots: &HashSet<u32>) -> Result<HashMap<u32, Load>, MapError> {
        slots.iter().map(|&slot| Ok((slot, self.loads.get(&slot, 0)?))).collect()
    }

    pub(super) fn forget_connections(
        &mut self,
        is_stale: impl Fn(&Connection) -> bool,
    ) -> Result<usize, MapError> {
        self.forget(&mut |_, connection| is_stale(connection))
    }

    /// Looks at every connection and removes those that are stale.
    fn forget(&mut self, is_stale: &mut dyn FnMut(u64, &Connection) -> bool) -> Result<usize, MapError> {
        let mut stale = Vec::new();
        // Where the entry last looked at is removed, the kernel begins again.
        let mut seen = HashSet::new();
        for entry in self.connections.iter().take(2 * MAX_CONNECTIONS as usize) {
            let (cookie, connection) = entry?;
            if seen.insert(cookie) && is_stale(cookie, &connection) {
                stale.push(cookie);
            }
        }
        for cookie in &stale {
            match self.connections.remove(cookie) {
                Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
                    // The kernel was quicker.
                }
                result => result?,
            }
        }
        Ok(stale.len())
    }
}

impl Quantiles {
    /// Of what was counted between two readings of one histogram.
    pub fn between(earlier: &Histogram, later: &Histogram) -> Self {
        let counts: Vec<u64> = later
            .counts
            .iter()
            .zip(&earlier.counts)
            .map(|(later, earlier)| later.saturating_sub(*earlier))
            .collect();
        let count: u64 = counts.iter().sum();
        let at = |per_cent: u64| {
            if count == 0 {
                return 0;
            }
            let rank = (count * per_cent).div_ceil(100);
            let mut seen = 0;
            for (bucket, counted) in (0_u32..).zip(&counts) {
                seen += counted;
                if seen >= rank {
                    return upper_bound_ns(bucket.min(BUCKETS - 2));
                }
            }
            0
        };
        Self {
            count,
            sum_ns: later.sum_ns.saturating_sub(earlier.sum_ns),
            p50_ns: at(50),
            p95_ns: at(95),
            p99_ns: at(99),
        }
    }
}
