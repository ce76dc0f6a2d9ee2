//! The BPF maps' layouts. Each says who writes it, who reads it, how much fits,
//! and what happens when it is full.
//!
//! All of these are `repr(C)` with asserted sizes, because kernel programs and
//! user space are compiled by different compilers for different targets. A change
//! of any layout is a new [`SCHEMA`]: it names the folder that the maps are pinned
//! under, so an old reader never misreads a new map.

use core::mem::size_of;

use crate::framing::Connection;

/// Version of all layouts here; part of the pin path (`…/forebay/v1`).
pub const SCHEMA: u32 = 1;

/// Pod address × port pairs one node can follow.
pub const MAX_ENDPOINTS: u32 = 256;
/// Words of 64 bits for a bit map of all ports.
pub const WATCHED_PORT_WORDS: u32 = (1 << 16) / 64;
/// Connections followed at one time.
pub const MAX_CONNECTIONS: u32 = 32_768;
/// GPUs of one node (a MIG instance is none of its own).
pub const MAX_GPUS: u32 = 64;
/// Bytes of the event ring. A power of two, at least a page.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// Map names, in the object file and as pins.
pub mod name {
    pub const PORTS: &str = "PORTS";
    pub const ENDPOINTS: &str = "ENDPOINTS";
    pub const CONNECTIONS: &str = "CONNECTIONS";
    pub const LOADS: &str = "LOADS";
    pub const LATENCIES: &str = "LATENCIES";
    pub const EVENTS: &str = "EVENTS";
    pub const STATS: &str = "STATS_BY_CPU";
    pub const GPUS: &str = "GPUS";

    pub const ALL: [&str; 8] = [PORTS, ENDPOINTS, CONNECTIONS, LOADS, LATENCIES, EVENTS, STATS, GPUS];
}

/// Key of `ENDPOINTS` (hash → slot `u32`): which slot of `LOADS` and `LATENCIES`
/// belongs to a port of a pod's cgroup.
/// Written by the agent, read by the programs once per connection.
/// Bound [`MAX_ENDPOINTS`]; the agent refuses more pods with a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// Inode of the pod's cgroup2 directory (the pod's own, not a container's).
    pub cgroup_id: u64,
    pub port: u16,
    /// Always zero: padding must be equal for keys to be equal.
    pub reserved: [u8; 6],
}

impl EndpointKey {
    pub const fn new(cgroup_id: u64, port: u16) -> Self {
        Self { cgroup_id, port, reserved: [0; 6] }
    }
}

/// Value of `LOADS` (array by slot): what the kernel counted at one endpoint.
/// Written by the programs with atomic adds, zeroed by the agent before a slot is
/// given out; read by anyone. `started = finished + aborted + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Load {
    /// POST requests whose first bytes arrived and whose response has not ended.
    pub in_flight: u64,
    pub started: u64,
    pub finished: u64,
    /// Ended by FIN or RST of either side before the response was complete.
    pub aborted: u64,
    /// Requests that are no POST: probes and scrapes.
    pub other_requests: u64,
    pub responses_2xx: u64,
    pub responses_4xx: u64,
    pub responses_5xx: u64,
    /// TCP payload, retransmits not counted again.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Response chunks with data (an SSE event each, unless merged).
    pub chunks: u64,
    /// Connections that are no HTTP/1.1 (TLS, HTTP/2, pipelined too deep).
    pub opaque_connections: u64,
    /// Times that framing was lost on a connection (a gap in what was seen, or
    /// more to read in one segment than the verifier allows).
    pub lost_framing: u64,
    /// CLOCK_BOOTTIME, nanoseconds, of the last change of any of these.
    pub changed_ns: u64,
}

/// Which histogram of a slot, in `LATENCIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Latency {
    Ttft = 0,
    Itl = 1,
    Duration = 2,
}

/// Histograms per slot.
pub const LATENCY_KINDS: u32 = 3;

/// Value of `LATENCIES` (array by `slot × LATENCY_KINDS + kind`).
/// Written by the programs with atomic adds; read by anyone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    pub sum_ns: u64,
    pub counts: [u64; crate::histogram::BUCKETS as usize],
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    Started = 1,
    FirstBody = 2,
    Finished = 3,
    Aborted = 4,
}

impl EventKind {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Started),
            2 => Some(Self::FirstBody),
            3 => Some(Self::Finished),
            4 => Some(Self::Aborted),
            _ => None,
        }
    }
}

/// Record of `EVENTS` (ring buffer): a request changed state. It wakes the agent
/// and tells about single requests; the counts are in `LOADS`, so a lost event
/// loses no count. On full: dropped and counted in [`Stat::EventsDropped`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Event {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub at_ns: u64,
    /// FirstBody: TTFT. Finished: whole duration. Otherwise 0.
    pub elapsed_ns: u64,
    pub slot: u32,
    /// An [`EventKind`].
    pub kind: u32,
    pub remote_port: u16,
    /// HTTP status, once known; else 0.
    pub status: u16,
    /// How many requests it stands for (more than one only when pipelined).
    pub count: u32,
}

/// Index of `STATS` (per-CPU array of `u64`): what the programs could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Segments looked at (right port, with payload or a closing flag).
    Segments = 0,
    /// Connections not followed because `CONNECTIONS` was full.
    ConnectionsFull = 1,
    EventsDropped = 2,
    /// Requests that came with the handshake's last segment, when the kernel still
    /// shows the listener as their socket: not followed.
    OnListener = 3,
    /// Connections to a watched port from a cgroup that has no slot.
    NoSlot = 4,
}

/// Entries of `STATS`.
pub const STATS: u32 = 5;

/// Value of `GPUS` (array by NVML index; `uuid[0] == 0` is an empty entry).
/// Written by the agent (NVML has no kernel side), pinned beside the kernel's maps
/// for readers on the node. `present` says which fields were measured.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GpuSample {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub measured_ns: u64,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub power_mw: u64,
    /// NVML's clocks event reasons bit mask.
    pub throttle_reasons: u64,
    pub xid_errors: u64,
    pub utilization_percent: u32,
    pub temperature_celsius: u32,
    pub sm_clock_mhz: u32,
    /// `GpuHealth` of `forebay.telemetry.v1`.
    pub health: u32,
    /// Bits of [`gpu_field`].
    pub present: u32,
    pub reserved: u32,
    /// `GPU-…`, zero-terminated.
    pub uuid: [u8; 48],
}

/// Bits of [`GpuSample::present`].
pub mod gpu_field {
    pub const UTILIZATION: u32 = 1 << 0;
    pub const MEMORY: u32 = 1 << 1;
    pub const TEMPERATURE: u32 = 1 << 2;
    pub const POWER: u32 = 1 << 3;
    pub const SM_CLOCK: u32 = 1 << 4;
    pub const THROTTLE_REASONS: u32 = 1 << 5;
}

const _: () = {
    assert!(size_of::<EndpointKey>() == 16);
    assert!(size_of::<Load>() == 112);
    assert!(size_of::<Histogram>() == 8 + 8 * 224);
    assert!(size_of::<Event>() == 32);
    assert!(size_of::<GpuSample>() == 120);
    // `CONNECTIONS` (hash by socket cookie `u64`): preallocated, never evicting, so
    // that no live stream is forgotten. Written by the programs only.
    assert!(size_of::<Connection>() == 408);
};

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya reads map values as bytes of these types")]
mod user {
    use super::{EndpointKey, GpuSample, Histogram, Load};
    use crate::framing::Connection;

    // SAFETY: `repr(C)`, no padding that is read, valid for every bit pattern.
    unsafe impl aya::Pod for EndpointKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Load {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Histogram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GpuSample {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Connection {}
}
