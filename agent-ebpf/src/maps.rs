//! Layouts of the BPF maps, and one table of all maps: [`MAPS`].
//!
//! Kernel programs and user space are compiled for different targets, so all layouts are `repr(C)` with asserted sizes.
//! A change of any layout needs a new [`SCHEMA`], which names the folder of the pins: an old reader never reads a new
//! map.
//!
//! # Example
//!
//! ```
//! use forebay_agent_ebpf::maps::{LOADS, MAPS, MapKind};
//!
//! assert_eq!(LOADS.spec.kind, MapKind::Array);
//! assert!(MAPS.iter().any(|spec| spec.name == "LOADS"));
//! ```

use core::{marker::PhantomData, mem::size_of};

use crate::{
    framing::{Connection, Ended},
    histogram::BUCKETS,
};

/// Version of all layouts. Part of the pin path (`…/forebay/v4`).
pub const SCHEMA: u32 = 4;

/// Maximum endpoints (pod address and port) followed on a node.
pub const MAX_ENDPOINTS: u32 = 256;
/// 64-bit words of a bitmap of all ports.
pub const WATCHED_PORT_WORDS: u32 = (1 << 16) / 64;
/// Maximum connections followed at one time.
pub const MAX_CONNECTIONS: u32 = 32_768;
/// Maximum GPUs of a node. MIG instances are not counted separately.
pub const MAX_GPUS: u32 = 64;
/// Bytes of the event ring. A power of two, at least a page.
pub const EVENT_RING_BYTES: u32 = 512 * 1024;

/// Kind of a BPF map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`
    Array,
    /// `BPF_MAP_TYPE_HASH`, preallocated, never evicting.
    Hash,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray,
    /// `BPF_MAP_TYPE_RINGBUF`
    RingBuf,
}

impl MapKind {
    /// The kernel's number of the map type (`enum bpf_map_type`).
    pub const fn number(self) -> u32 {
        match self {
            Self::Hash => 1,
            Self::Array => 2,
            Self::PerCpuArray => 6,
            Self::RingBuf => 27,
        }
    }
}

/// Who accesses a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agent, from user space.
    Agent,
    /// The kernel programs.
    Programs,
}

/// Everything that loader, programs and pins must agree on for one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Symbol in the object file, and file name of the pin.
    pub name: &'static str,
    /// The kernel's type of the map.
    pub kind: MapKind,
    /// Bytes of a key; 0 for a ring.
    pub key_bytes: u32,
    /// Bytes of a value; 0 for a ring.
    pub value_bytes: u32,
    /// Maximum entries, or bytes of a ring.
    pub max_entries: u32,
    /// The map is pinned, so that it survives a restart of the agent.
    pub pinned: bool,
    /// The side that adds and updates entries during normal operation. The agent may also clear and remove entries.
    pub writer: Side,
    /// The side that the entries are meant for.
    pub reader: Side,
}

/// A [`MapSpec`] with the types of its keys and values.
#[derive(Clone, Copy, Debug)]
pub struct TypedMap<K, V> {
    /// The specification.
    pub spec: MapSpec,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TypedMap<K, V> {
    const fn new(name: &'static str, kind: MapKind, max_entries: u32, writer: Side, reader: Side) -> Self {
        let spec = MapSpec {
            name,
            kind,
            key_bytes: size_of::<K>() as u32,
            value_bytes: size_of::<V>() as u32,
            max_entries,
            pinned: true,
            writer,
            reader,
        };
        Self { spec, types: PhantomData }
    }
}

/// Bitmap of watched ports, 64 per word. The first check for every packet.
pub const PORTS: TypedMap<u32, u64> =
    TypedMap::new("PORTS", MapKind::Array, WATCHED_PORT_WORDS, Side::Agent, Side::Programs);
/// Slot in [`LOADS`] and [`LATENCIES`] of each endpoint. Read once per connection. If the map is full, the agent refuses
/// further pods with a log line.
pub const ENDPOINTS: TypedMap<EndpointKey, u32> =
    TypedMap::new("ENDPOINTS", MapKind::Hash, MAX_ENDPOINTS, Side::Agent, Side::Programs);
/// State of each connection, by socket cookie. If the map is full, new connections are not followed and counted in
/// [`Stat::ConnectionsFull`].
pub const CONNECTIONS: TypedMap<u64, Connection> =
    TypedMap::new("CONNECTIONS", MapKind::Hash, MAX_CONNECTIONS, Side::Programs, Side::Programs);
/// Counters and gauges of each endpoint, by slot.
pub const LOADS: TypedMap<u32, Load> =
    TypedMap::new("LOADS", MapKind::Array, MAX_ENDPOINTS, Side::Programs, Side::Agent);
/// Histograms of each endpoint, by `slot * LATENCY_KINDS + kind`.
pub const LATENCIES: TypedMap<u32, Histogram> =
    TypedMap::new("LATENCIES", MapKind::Array, MAX_ENDPOINTS * LATENCY_KINDS, Side::Programs, Side::Agent);
/// Ring of [`Event`] records. If it is full, events are dropped and counted in [`Stat::EventsDropped`].
pub const EVENTS: TypedMap<(), ()> =
    TypedMap::new("EVENTS", MapKind::RingBuf, EVENT_RING_BYTES, Side::Programs, Side::Agent);
/// What the programs could not record, by [`Stat`].
pub const STATS: TypedMap<u32, u64> =
    TypedMap::new("STATS_BY_CPU", MapKind::PerCpuArray, STAT_KINDS, Side::Programs, Side::Agent);
/// Samples of each GPU, by NVML index. The programs do not use this map. It is pinned with the others, for readers on
/// the node.
pub const GPUS: TypedMap<u32, GpuSample> =
    TypedMap::new("GPUS", MapKind::Array, MAX_GPUS, Side::Agent, Side::Agent);

/// All maps.
pub const MAPS: [MapSpec; 8] = [
    PORTS.spec,
    ENDPOINTS.spec,
    CONNECTIONS.spec,
    LOADS.spec,
    LATENCIES.spec,
    EVENTS.spec,
    STATS.spec,
    GPUS.spec,
];

/// Key of [`ENDPOINTS`]: a port of a pod's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// Inode of the pod's cgroup2 directory (the pod's own, not a container's).
    pub cgroup_id: u64,
    /// Local TCP port.
    pub port: u16,
    /// Always zero: keys are compared as bytes.
    pub reserved: [u8; 6],
}

impl EndpointKey {
    /// A key with zeroed padding.
    pub const fn new(cgroup_id: u64, port: u16) -> Self {
        Self { cgroup_id, port, reserved: [0; 6] }
    }
}

/// Value of [`LOADS`]. The programs use atomic adds. The agent zeroes a slot before it assigns it.
/// `started = finished + aborted + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Load {
    /// POST requests whose first bytes arrived and whose response is not complete.
    pub in_flight: u64,
    /// Bytes received for POST requests in flight that have no response body byte yet (head and body, as on the wire).
    ///
    /// Ingress and egress of one connection may run at the same time, so the raw value can be negative (two's
    /// complement) for an instant.
    pub waiting_bytes: u64,
    /// POST requests started.
    pub started: u64,
    /// POST requests whose response is complete.
    pub finished: u64,
    /// POST requests that ended by FIN or RST of either side before the response was complete.
    pub aborted: u64,
    /// Requests with another method: probes and scrapes.
    pub other_requests: u64,
    /// Responses to POST with status 2xx.
    pub responses_2xx: u64,
    /// Responses to POST with status 4xx.
    pub responses_4xx: u64,
    /// Responses to POST with status 5xx.
    pub responses_5xx: u64,
    /// TCP payload bytes received, without retransmits.
    pub bytes_in: u64,
    /// TCP payload bytes sent, without retransmits.
    pub bytes_out: u64,
    /// Chunks with data of responses to POST (one SSE event each, unless merged).
    pub chunks: u64,
    /// Connections that are not HTTP/1.1 (TLS, HTTP/2) or pipeline too many requests.
    pub opaque_connections: u64,
    /// Times that framing was lost on a connection (a gap in the segments seen, or more steps than the limit).
    pub lost_framing: u64,
    /// Last time that a request started, finished or was aborted, CLOCK_BOOTTIME nanoseconds.
    pub changed_ns: u64,
    /// Last time that content of a response to POST was sent, CLOCK_BOOTTIME nanoseconds. 0: never.
    pub sent_ns: u64,
}

/// The histograms of a slot, in [`LATENCIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Latency {
    /// First request byte to first content byte of the response.
    Ttft = 0,
    /// Between two response chunks of one request.
    Itl = 1,
    /// First request byte to last response byte.
    Duration = 2,
}

/// Histograms per slot.
pub const LATENCY_KINDS: u32 = 3;

/// Value of [`LATENCIES`]. The programs use atomic adds.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    /// Sum of all durations, nanoseconds.
    pub sum_ns: u64,
    /// Number of durations per bucket (see [`crate::histogram`]).
    pub counts: [u64; BUCKETS as usize],
}

/// What an [`Event`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A request started.
    Started = 1,
    /// The first content byte of a response was sent.
    FirstBody = 2,
    /// A response is complete.
    Finished = 3,
    /// A request ended before its response did.
    Aborted = 4,
}

impl EventKind {
    /// Decodes [`Event::kind`]. `None` for an unknown number.
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

/// Record of [`EVENTS`]: a request changed state. Events wake the agent. The counts are in [`LOADS`], so a dropped event
/// loses no count.
///
/// A segment that ends several requests (pipelining) gives one event with the values of the first, and one without
/// values for the others of the same kind.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Event {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub at_ns: u64,
    /// Finished, Aborted: first request byte to the end of the request.
    pub duration_ns: u64,
    /// FirstBody, Finished, Aborted: first request byte to the first content byte of the response.
    pub ttft_ns: u64,
    /// Finished, Aborted: head and body of the final response as sent, without retransmits.
    pub response_bytes: u64,
    /// Slot of the endpoint.
    pub slot: u32,
    /// An [`EventKind`].
    pub kind: u32,
    /// Finished, Aborted: chunks with data of the response.
    pub response_chunks: u32,
    /// Number of requests. More than one only with pipelining, and then no value is known.
    pub count: u32,
    /// Bits of [`known`](crate::framing::known): the values that are known. Others are 0.
    pub known: u32,
    /// Port of the client.
    pub remote_port: u16,
    /// Finished, Aborted: status of the final response; 0 if it is not known or was not sent.
    pub status: u16,
}

impl Event {
    /// An event of `count` requests of a connection, with the values of `ended`.
    #[inline(always)]
    pub fn new(connection: &Connection, kind: EventKind, count: u32, ended: &Ended, at_ns: u64) -> Self {
        Self {
            at_ns,
            duration_ns: ended.duration_ns,
            ttft_ns: ended.ttft_ns,
            response_bytes: ended.response_bytes,
            slot: connection.slot,
            kind: kind as u32,
            response_chunks: ended.response_chunks,
            count,
            known: ended.known.into(),
            remote_port: connection.remote_port,
            status: ended.status,
        }
    }
}

/// Index of [`STATS`]: what the programs could not record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Segments processed (watched port, with payload or FIN or RST).
    Segments = 0,
    /// Connections not followed because [`CONNECTIONS`] was full.
    ConnectionsFull = 1,
    /// Events dropped because the ring was full.
    EventsDropped = 2,
    /// Requests not followed because they arrived with the last segment of the handshake, when the kernel still reports
    /// the listener as their socket.
    OnListener = 3,
    /// Connections to a watched port from a cgroup without a slot.
    NoSlot = 4,
}

/// Number of [`Stat`] entries.
pub const STAT_KINDS: u32 = 5;

/// Value of [`GPUS`]. `uuid[0] == 0` is an empty entry.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GpuSample {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub measured_ns: u64,
    /// Framebuffer in use.
    pub memory_used_bytes: u64,
    /// Framebuffer size.
    pub memory_total_bytes: u64,
    /// Power draw, milliwatts.
    pub power_mw: u64,
    /// NVML's clocks event reasons bit mask.
    pub throttle_reasons: u64,
    /// XID errors since the agent started.
    pub xid_errors: u64,
    /// Share of time in which a GPU kernel ran.
    pub utilization_percent: u32,
    /// GPU temperature.
    pub temperature_celsius: u32,
    /// SM clock.
    pub sm_clock_mhz: u32,
    /// `GpuHealth` of `forebay.telemetry.v1`.
    pub health: u32,
    /// Bits of [`gpu_field`]: the fields that were measured.
    pub present: u32,
    /// Always zero.
    pub reserved: u32,
    /// `GPU-…`, zero-terminated.
    pub uuid: [u8; 48],
}

/// Bits of [`GpuSample::present`].
pub mod gpu_field {
    /// `utilization_percent`
    pub const UTILIZATION: u32 = 1 << 0;
    /// `memory_used_bytes` and `memory_total_bytes`
    pub const MEMORY: u32 = 1 << 1;
    /// `temperature_celsius`
    pub const TEMPERATURE: u32 = 1 << 2;
    /// `power_mw`
    pub const POWER: u32 = 1 << 3;
    /// `sm_clock_mhz`
    pub const SM_CLOCK: u32 = 1 << 4;
    /// `throttle_reasons`
    pub const THROTTLE_REASONS: u32 = 1 << 5;
}

const _: () = {
    assert!(size_of::<EndpointKey>() == 16);
    assert!(size_of::<Load>() == 128);
    assert!(size_of::<Histogram>() == 8 + 8 * 224);
    assert!(size_of::<Event>() == 56);
    assert!(size_of::<GpuSample>() == 120);
    assert!(size_of::<Connection>() == 584);
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
