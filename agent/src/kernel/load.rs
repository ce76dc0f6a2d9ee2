//! Loads the programs.

use std::collections::{HashMap as StdHashMap, HashSet, VecDeque};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, RingBuf},
    programs::{CgroupSkb, ProgramError, SockOps},
};
use forebay_agent_ebpf::maps::{self, MAPS, MAX_ENDPOINTS, MapSpec, TypedMap};

use super::{
    events::Events,
    options::Options,
    pins::PinFolder,
    state::{EGRESS, INGRESS, Kernel, SOCKETS},
};

/// Why requests are not counted in the kernel, as one line for an operator.
#[derive(Debug, thiserror::Error)]
pub enum KernelOff {
    /// The binary was built without the object file.
    #[error("this build has no kernel programs: run `cargo xtask ebpf`, then build the agent again")]
    NotBuilt,
    /// A capability is missing.
    #[error("not permitted to load BPF programs: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON ({0})")]
    NotPermitted(String),
    /// The verifier refused a program.
    #[error("the kernel refused program {program}: {reason}")]
    Refused {
        /// Name of the program.
        program: &'static str,
        /// End of the verifier's log.
        reason: String,
    },
    /// Any other failure.
    #[error("cannot load the kernel programs: {0}")]
    Unloadable(String),
}

impl Kernel {
    /// Loads programs and maps, and adopts pinned maps. Attaches nothing.
    ///
    /// The third value is the reason why the maps are not pinned, if they are not.
    pub fn load(options: &Options) -> Result<(Self, Events, Option<String>), KernelOff> {
        let object = object().ok_or(KernelOff::NotBuilt)?;
        let (mut pins, mut unpinned) = match PinFolder::create(&options.pin_root) {
            Ok(pins) => {
                pins.remove_other_schemas();
                (Some(pins), None)
            }
            Err(reason) => (None, Some(reason)),
        };
        let mut ebpf = match load_maps(object, pins.as_ref()) {
            Err(error) if pins.is_some() => {
                // The pinned maps may be the cause. Counting works without them.
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

        let events: RingBuf<MapData> = take(&mut ebpf, &maps::EVENTS.spec)?;
        let events = Events::new(events).map_err(|error| KernelOff::Unloadable(error.to_string()))?;
        let mut kernel = Self {
            ports: array(&mut ebpf, &maps::PORTS)?,
            endpoints: hash(&mut ebpf, &maps::ENDPOINTS)?,
            connections: hash(&mut ebpf, &maps::CONNECTIONS)?,
            loads: array(&mut ebpf, &maps::LOADS)?,
            latencies: array(&mut ebpf, &maps::LATENCIES)?,
            stats: take(&mut ebpf, &maps::STATS.spec)?,
            gpus: array(&mut ebpf, &maps::GPUS)?,
            ebpf,
            pins,
            keep_pins: options.keep_pins.clone(),
            attached: StdHashMap::new(),
            free_slots: VecDeque::new(),
            closed: HashSet::new(),
            drift: StdHashMap::new(),
        };
        kernel.adopt_slots();
        Ok((kernel, events, unpinned))
    }

    /// Keeps the slots that an earlier agent assigned, so that its counters continue.
    fn adopt_slots(&mut self) {
        let taken: HashSet<u32> =
            self.endpoints.iter().filter_map(|entry| entry.ok().map(|(_, slot)| slot)).collect();
        self.free_slots = (0..MAX_ENDPOINTS).filter(|slot| !taken.contains(slot)).collect();
    }
}

fn load_maps(object: &[u8], pins: Option<&PinFolder>) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for spec in MAPS.iter().filter(|spec| spec.pinned) {
            loader.map_pin_path(spec.name, pins.map(spec.name));
        }
    }
    loader.load(object)
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

fn array<V: Pod>(ebpf: &mut Ebpf, map: &TypedMap<u32, V>) -> Result<Array<MapData, V>, KernelOff> {
    take(ebpf, &map.spec)
}

fn hash<K: Pod, V: Pod>(ebpf: &mut Ebpf, map: &TypedMap<K, V>) -> Result<HashMap<MapData, K, V>, KernelOff> {
    take(ebpf, &map.spec)
}

fn take<M>(ebpf: &mut Ebpf, spec: &MapSpec) -> Result<M, KernelOff>
where
    M: TryFrom<Map, Error = MapError>,
{
    let name = spec.name;
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
            // EACCES is a refusal by the verifier.
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Formats the error and its causes on one line. Of the verifier's log only the end is kept, which has the reason.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    const MAX_CHARS: usize = 400;
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth_back(MAX_CHARS) {
        Some((at, _)) => format!("…{}", &text[at..]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_the_object_file_agree_with_the_table() {
        let Some(object) = object() else {
            eprintln!("skipped: built without kernel programs");
            return;
        };
        let object = aya_obj::Object::parse(object).unwrap();
        let mut found: Vec<_> = object
            .maps
            .iter()
            .filter(|(name, _)| !name.starts_with('.'))
            .map(|(name, map)| {
                (name.as_str(), map.map_type(), map.key_size(), map.value_size(), map.max_entries())
            })
            .collect();
        let mut specified: Vec<_> = MAPS
            .iter()
            .map(|map| (map.name, map.kind.number(), map.key_bytes, map.value_bytes, map.max_entries))
            .collect();
        found.sort_unstable();
        specified.sort_unstable();
        assert_eq!(found, specified);
    }
}
