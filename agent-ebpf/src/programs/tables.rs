//! The maps as the programs see them. [`forebay_agent_ebpf::maps`] specifies them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use forebay_agent_ebpf::{
    framing::Connection,
    maps::{self, EndpointKey, GpuSample, Histogram, Load, Stat, TypedMap},
};

const fn array<V>(map: &TypedMap<u32, V>) -> Array<V> {
    Array::with_max_entries(map.spec.max_entries, 0)
}

const fn hash<K, V>(map: &TypedMap<K, V>) -> HashMap<K, V> {
    HashMap::with_max_entries(map.spec.max_entries, 0)
}

#[map]
pub(crate) static PORTS: Array<u64> = array(&maps::PORTS);

#[map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, u32> = hash(&maps::ENDPOINTS);

#[map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection> = hash(&maps::CONNECTIONS);

#[map]
pub(crate) static LOADS: Array<Load> = array(&maps::LOADS);

#[map]
pub(crate) static LATENCIES: Array<Histogram> = array(&maps::LATENCIES);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(maps::EVENTS.spec.max_entries, 0);

#[map]
pub(crate) static STATS_BY_CPU: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(maps::STATS.spec.max_entries, 0);

/// Unused by the programs. Defined here so that the loader creates and pins it with the others.
#[map]
pub(crate) static GPUS: Array<GpuSample> = array(&maps::GPUS);

#[inline(always)]
pub(crate) fn is_watched(port: u16) -> bool {
    match PORTS.get(u32::from(port) >> 6) {
        Some(word) => word & 1 << (port & 63) != 0,
        None => false,
    }
}

#[inline(always)]
pub(crate) fn count(stat: Stat) {
    if let Some(value) = STATS_BY_CPU.get_ptr_mut(stat as u32) {
        // SAFETY: the entry of this CPU. An interrupt between load and store may lose one count, which is acceptable
        // for diagnostics.
        unsafe { *value += 1 };
    }
}
