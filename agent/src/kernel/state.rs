//! The loaded programs and their maps.

use std::collections::{HashMap, HashSet, VecDeque};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray},
    programs::links::{FdLink, PinnedLink},
};
use forebay_agent_ebpf::{
    framing::Connection,
    maps::{EndpointKey, GpuSample, Histogram, Load},
};

use super::{drift::EndpointDrift, options::KeepPins, pins::PinFolder};

/// Programs, in the object file.
pub(super) const INGRESS: &str = "forebay_ingress";
pub(super) const EGRESS: &str = "forebay_egress";
pub(super) const SOCKETS: &str = "forebay_sockets";

/// The loaded programs and their maps. Dropping it detaches the programs and removes the pins, unless they are kept.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) ports: Array<MapData, u64>,
    pub(super) endpoints: BpfHashMap<MapData, EndpointKey, u32>,
    pub(super) connections: BpfHashMap<MapData, u64, Connection>,
    pub(super) loads: Array<MapData, Load>,
    pub(super) latencies: Array<MapData, Histogram>,
    pub(super) stats: PerCpuArray<MapData, u64>,
    pub(super) gpus: Array<MapData, GpuSample>,
    pub(super) pins: Option<PinFolder>,
    pub(super) keep_pins: KeepPins,
    /// By cgroup id.
    pub(super) attached: HashMap<u64, Attached>,
    /// In the order in which they were freed.
    pub(super) free_slots: VecDeque<u32>,
    /// Closed connections that the last sweep found, by socket cookie.
    pub(super) closed: HashSet<u64>,
    /// By slot.
    pub(super) drift: HashMap<u32, EndpointDrift>,
}

/// A pod's cgroup with attached programs.
#[derive(Debug)]
pub(super) struct Attached {
    /// Port and slot.
    pub(super) slots: Vec<(u16, u32)>,
    pub(super) _links: Vec<Link>,
}

/// The attachment of a program to a cgroup. Dropping it detaches the program, unless it is pinned.
#[derive(Debug)]
pub(super) enum Link {
    #[expect(dead_code, reason = "held for its drop")]
    Held(FdLink),
    #[expect(dead_code, reason = "held for its drop")]
    Pinned(PinnedLink),
}

impl Kernel {
    /// Slots of the endpoints that are watched.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.attached.values().flat_map(|pod| pod.slots.iter().map(|(_, slot)| *slot))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.keep_pins.get() {
            return;
        }
        if let Some(pins) = &self.pins
            && let Err(error) = pins.remove()
        {
            tracing::warn!(%error, "cannot remove the BPF pins");
        }
    }
}
