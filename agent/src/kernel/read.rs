//! Reads what the programs recorded.

use aya::maps::MapError;
use forebay_agent_ebpf::maps::{GpuSample, Histogram, LATENCY_KINDS, Latency, Load, Stat};

use super::state::Kernel;

/// What the programs could not record since they were loaded, and the number of segments for comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounters {
    /// Segments processed.
    pub segments: u64,
    /// Connections not followed because the map was full.
    pub connections_full: u64,
    /// Events dropped because the ring was full. No count is lost.
    pub events_dropped: u64,
    /// Requests not followed because they arrived with the end of the handshake.
    pub on_listener: u64,
    /// Connections to a watched port from a cgroup without a slot.
    pub no_slot: u64,
    /// Times that framing was lost, summed over the endpoints watched now.
    pub lost_framing: u64,
}

impl Kernel {
    /// Reads the load of an endpoint. Gauges are corrected by the drift that two sweeps in a row found.
    pub fn load_of(&self, slot: u32) -> Result<Load, MapError> {
        let mut load = self.loads.get(&slot, 0)?;
        if let Some(drift) = self.drift.get(&slot) {
            drift.correct(&mut load);
        }
        // Negative for an instant while both directions of a connection are updated.
        load.waiting_bytes = (load.waiting_bytes as i64).max(0) as u64;
        Ok(load)
    }

    /// Reads a histogram of an endpoint.
    pub fn histogram(&self, slot: u32, kind: Latency) -> Result<Histogram, MapError> {
        self.latencies.get(&(slot * LATENCY_KINDS + kind as u32), 0)
    }

    /// Reads the drop counters, summed over all CPUs.
    pub fn drop_counters(&self) -> Result<DropCounters, MapError> {
        let sum =
            |stat: Stat| -> Result<u64, MapError> { Ok(self.stats.get(&(stat as u32), 0)?.iter().sum()) };
        let mut lost_framing = 0;
        for slot in self.slots() {
            lost_framing += self.loads.get(&slot, 0)?.lost_framing;
        }
        Ok(DropCounters {
            segments: sum(Stat::Segments)?,
            connections_full: sum(Stat::ConnectionsFull)?,
            events_dropped: sum(Stat::EventsDropped)?,
            on_listener: sum(Stat::OnListener)?,
            no_slot: sum(Stat::NoSlot)?,
            lost_framing,
        })
    }

    /// Number of connections that the programs follow.
    pub fn connections_followed(&self) -> Result<usize, MapError> {
        self.connections.keys().try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Writes a GPU's sample to its map, for readers on the node.
    pub fn write_gpu(&mut self, index: u32, sample: GpuSample) -> Result<(), MapError> {
        self.gpus.set(index, sample, 0)
    }
}
