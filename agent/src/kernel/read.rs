//! Reading what the programs counted, and sweeping what they cannot clear.

use std::collections::HashSet;

use aya::maps::MapError;
use forebay_agent_ebpf::{
    histogram::{BUCKETS, upper_bound_ns},
    maps::{GpuSample, Histogram, LATENCY_KINDS, Latency, Load, Stat},
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

impl Kernel {
    pub fn load_of(&self, slot: u32) -> Result<Load, MapError> {
        self.loads.get(&slot, 0)
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
    /// late segments still find them), and those of endpoints that are gone.
    pub fn sweep(&mut self) -> Result<usize, MapError> {
        let live: HashSet<u32> =
            self.attached.values().flat_map(|pod| pod.slots.iter().map(|s| s.1)).collect();
        let mut closed = Vec::new();
        let mut stale = Vec::new();
        for entry in self.connections.iter() {
            let (cookie, connection) = entry?;
            if !live.contains(&connection.slot) || (connection.is_closed() && self.closed.contains(&cookie)) {
                stale.push(cookie);
            } else if connection.is_closed() {
                closed.push(cookie);
            }
        }
        for cookie in &stale {
            match self.connections.remove(cookie) {
                // The kernel was quicker.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.closed = closed;
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
