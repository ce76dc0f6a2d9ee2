//! Loading the programs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap as BpfHashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{CgroupSkb, ProgramError, SockOps},
};
use forebay_agent_ebpf::{
    framing::Connection,
    maps::{EndpointKey, GpuSample, Histogram, Load, name},
};

use super::{attach::Attached, events::Events, pins::PinFolder, read::Drift};

pub(super) const INGRESS: &str = "forebay_ingress";
pub(super) const EGRESS: &str = "forebay_egress";
pub(super) const SOCKETS: &str = "forebay_sockets";

/// Where the kernel part may leave things.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on a bpffs, made if it is not there (`/sys/fs/bpf/forebay`).
    pub pin_root: PathBuf,
    /// Leave maps and links pinned at the end, for the next agent to adopt.
    pub keep_pins: KeepPins,
}

/// A decision that may still change until the end.
#[derive(Clone, Debug, Default)]
pub struct KeepPins(Arc<AtomicBool>);

impl KeepPins {
    pub fn set(&self, keep: bool) {
        self.0.store(keep, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<bool> for KeepPins {
    fn from(keep: bool) -> Self {
        Self(Arc::new(AtomicBool::new(keep)))
    }
}

/// Why nothing is measured in the kernel, in one line for an operator.
#[derive(Debug, thiserror::Error)]
pub enum KernelOff {
    #[error(
        "this build carries no kernel programs: build them with `cargo xtask ebpf`, then the agent again"
    )]
    NotBuilt,
    #[error("not permitted to load BPF programs: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON ({0})")]
    NotPermitted(String),
    #[error("the kernel refused program {program}: {reason}")]
    Refused { program: &'static str, reason: String },
    #[error("cannot load the kernel programs: {0}")]
    Unloadable(String),
}

/// The loaded programs and their maps.
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
    /// The one free for the longest time first.
    pub(super) free_slots: VecDeque<u32>,
    /// Connections found closed by the last sweep, by socket cookie.
    pub(super) closed: HashSet<u64>,
    /// What the last two sweeps found of gauges that disagree, by slot.
    pub(super) drift: HashMap<u32, Drift>,
}

impl Kernel {
    /// Loads everything and attaches nothing yet. Also says, if so, why nothing is
    /// pinned.
    pub fn load(options: &Options) -> Result<(Self, Events, Option<String>), KernelOff> {
        let object = object().ok_or(KernelOff::NotBuilt)?;
        let (mut pins, mut unpinned) = match PinFolder::create(&options.pin_root) {
            Ok(pins) => (Some(pins), None),
            Err(reason) => (None, Some(reason)),
        };
        let mut ebpf = match load_maps(object, pins.as_ref()) {
            Err(error) if pins.is_some() => {
                // What is pinned there may be the reason; counting must not hang on it.
                unpinned = Some(format!("cannot use {}: {}", options.pin_root.display(), chain(&error)));
                pins = None;
                load_maps(object, None)
            }
            result => result,
        }
        .map_err(|error| unloadable(&error))?;
        for program in [INGRESS, EGRESS] {
            let skb: &mut CgroupSkb = program_mut(&mut ebpf, program)?;
            skb.load().map_err(|error| refused(program, &error))?;
        }
        let sockets: &mut SockOps = program_mut(&mut ebpf, SOCKETS)?;
        sockets.load().map_err(|error| refused(SOCKETS, &error))?;

        let events: RingBuf<MapData> = map(&mut ebpf, name::EVENTS)?;
        let events = Events::new(events).map_err(|error| KernelOff::Unloadable(error.to_string()))?;
        let mut kernel = Self {
            ports: map(&mut ebpf, name::PORTS)?,
            endpoints: map(&mut ebpf, name::ENDPOINTS)?,
            connections: map(&mut ebpf, name::CONNECTIONS)?,
            loads: map(&mut ebpf, name::LOADS)?,
            latencies: map(&mut ebpf, name::LATENCIES)?,
            stats: map(&mut ebpf, name::STATS)?,
            gpus: map(&mut ebpf, name::GPUS)?,
            ebpf,
            pins,
            keep_pins: options.keep_pins.clone(),
            attached: HashMap::new(),
            free_slots: VecDeque::new(),
            closed: HashSet::new(),
            drift: HashMap::new(),
        };
        kernel.adopt();
        Ok((kernel, events, unpinned))
    }
}

fn load_maps(object: &[u8], pins: Option<&PinFolder>) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for map in name::ALL {
            loader.map_pin_path(map, pins.map(map));
        }
    }
    loader.load(object)
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.keep_pins.get() {
            return;
        }
        if let Some(pins) = &self.pins
            && let Err(error) = pins.remove()
        {
            tracing::warn!(%error, "could not remove the BPF pins");
        }
    }
}

#[cfg(kernel_programs)]
fn object() -> Option<&'static [u8]> {
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forebay-ebpf.o")))
}

#[cfg(not(kernel_programs))]
fn object() -> Option<&'static [u8]> {
    None
}

fn program_mut<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelOff>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| KernelOff::Unloadable(format!("the object has no program {name}")))?;
    program.try_into().map_err(|error: ProgramError| refused(name, &error))
}

fn map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelOff>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map =
        ebpf.take_map(name).ok_or_else(|| KernelOff::Unloadable(format!("the object has no map {name}")))?;
    M::try_from(map).map_err(|error| KernelOff::Unloadable(format!("map {name}: {error}")))
}

fn unloadable(error: &(dyn std::error::Error + 'static)) -> KernelOff {
    let text = chain(error);
    if is_permission(error) { KernelOff::NotPermitted(text) } else { KernelOff::Unloadable(text) }
}

fn refused(program: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelOff {
    let reason = chain(error);
    if is_permission(error) {
        KernelOff::NotPermitted(reason)
    } else {
        KernelOff::Refused { program, reason }
    }
}

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            // Not EACCES, which is how the verifier says no.
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The error and its causes on one line; the verifier's log is cut to its end,
/// where the reason stands.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    const LONGEST: usize = 400;
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth_back(LONGEST) {
        Some((at, _)) => format!("…{}", &text[at..]),
        None => text,
    }
}
