//! The maps. Layouts, owners and bounds are in `forebay_agent_ebpf::maps`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use forebay_agent_ebpf::{
    framing::Connection,
    maps::{
        EVENT_RING_BYTES, EndpointKey, GpuSample, Histogram, LATENCY_KINDS, Load, MAX_CONNECTIONS,
        MAX_ENDPOINTS, MAX_GPUS, STATS, Stat, WATCHED_PORT_WORDS,
    },
};

/// Bit map of watched ports, 64 to a word: asked first, for every packet.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(WATCHED_PORT_WORDS, 0);

#[map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, u32> = HashMap::with_max_entries(MAX_ENDPOINTS, 0);

#[map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(MAX_CONNECTIONS, 0);

#[map]
pub(crate) static LOADS: Array<Load> = Array::with_max_entries(MAX_ENDPOINTS, 0);

#[map]
pub(crate) static LATENCIES: Array<Histogram> = Array::with_max_entries(MAX_ENDPOINTS * LATENCY_KINDS, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

#[map]
pub(crate) static STATS_BY_CPU: PerCpuArray<u64> = PerCpuArray::with_max_entries(STATS, 0);

/// No program touches it; it is here so that it is made and pinned with the rest.
#[map]
pub(crate) static GPUS: Array<GpuSample> = Array::with_max_entries(MAX_GPUS, 0);

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
        // SAFETY: this CPU's own entry. An interrupt between load and store may
        // lose one count; these are diagnostics.
        unsafe { *value += 1 };
    }
}
