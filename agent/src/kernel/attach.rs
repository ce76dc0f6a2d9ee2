//! Attaches the programs to the cgroups of pods and assigns slots.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapError,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, SockOps,
        links::{FdLink, LinkError},
    },
};
use forebay_agent_ebpf::{
    histogram::BUCKETS,
    maps::{EndpointKey, Histogram, LATENCY_KINDS, Load, MAX_ENDPOINTS},
};

use super::state::{Attached, EGRESS, INGRESS, Kernel, Link, SOCKETS};

/// A pod that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Inode of the pod's cgroup.
    pub cgroup_id: u64,
    /// Port and slot, in the order of the requested ports.
    pub slots: Vec<(u16, u32)>,
}

/// Why a pod is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The cgroup does not exist or cannot be read.
    #[error("cannot open the cgroup {path}: {source}")]
    Cgroup {
        /// Folder of the cgroup.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// All slots are in use.
    #[error("no free slot: this agent follows at most {MAX_ENDPOINTS} endpoints")]
    Full,
    /// The kernel refused the attachment.
    #[error("cannot attach {program} to {path}: {source}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Folder of the cgroup.
        path: PathBuf,
        /// Cause.
        source: ProgramError,
    },
    /// The link could not be pinned.
    #[error("cannot pin the link of {program}: {source}")]
    Pin {
        /// Name of the program.
        program: &'static str,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed.
    #[error("cannot write a BPF map: {0}")]
    Map(#[from] MapError),
    /// A link operation failed.
    #[error("cannot detach: {0}")]
    Link(#[from] LinkError),
}

impl Kernel {
    /// Watches exactly these ports of a pod. A repeated call for the same cgroup changes only the difference. On an error
    /// the ports watched before stay watched.
    pub fn watch(&mut self, cgroup: &Path, ports: &[u16]) -> Result<Watched, WatchError> {
        let open = |source| WatchError::Cgroup { path: cgroup.to_owned(), source };
        let file = File::open(cgroup).map_err(open)?;
        let cgroup_id = file.metadata().map_err(open)?.ino();
        let before = self.attached.get(&cgroup_id).map(|attached| attached.slots.clone());
        if let Some(slots) = &before
            && slots.iter().map(|(port, _)| port).eq(ports)
        {
            return Ok(Watched { cgroup_id, slots: slots.clone() });
        }

        let before = before.unwrap_or_default();
        let mut slots = Vec::with_capacity(ports.len());
        let mut result = ports.iter().try_for_each(|&port| {
            slots.push((port, self.slot(EndpointKey::new(cgroup_id, port))?));
            Ok(())
        });
        if result.is_ok() && !self.attached.contains_key(&cgroup_id) {
            result = self.attach(cgroup_id, cgroup, &file).map(|links| {
                self.attached.insert(cgroup_id, Attached { slots: Vec::new(), _links: links });
            });
        }
        let (kept, dropped) = if result.is_ok() { (&slots, &before) } else { (&before, &slots) };
        let dropped: Vec<_> = dropped.iter().filter(|slot| !kept.contains(slot)).copied().collect();
        self.release(cgroup_id, &dropped);
        result?;
        if let Some(attached) = self.attached.get_mut(&cgroup_id) {
            attached.slots.clone_from(&slots);
        }
        self.write_ports()?;
        Ok(Watched { cgroup_id, slots })
    }

    /// Stops watching all other pods, including those that an earlier agent watched.
    pub fn retain(&mut self, cgroup_ids: &HashSet<u64>) -> Result<(), WatchError> {
        let gone: Vec<u64> = self.attached.keys().filter(|id| !cgroup_ids.contains(id)).copied().collect();
        for id in gone {
            self.attached.remove(&id);
        }
        if let Some(pins) = &self.pins {
            for (id, path) in pins.links().unwrap_or_default() {
                if !cgroup_ids.contains(&id) {
                    let _ = fs::remove_file(path);
                }
            }
        }
        let stale: Vec<(EndpointKey, u32)> = self
            .endpoints
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, slot)| {
                let watched = self.attached.get(&key.cgroup_id);
                !watched.is_some_and(|attached| attached.slots.contains(&(key.port, *slot)))
            })
            .collect();
        for (key, slot) in stale {
            self.endpoints.remove(&key)?;
            self.free_slots.push_back(slot);
        }
        self.write_ports()
    }

    /// Returns the slot of an endpoint: the existing one, or a free one after clearing it.
    fn slot(&mut self, key: EndpointKey) -> Result<u32, WatchError> {
        if let Ok(slot) = self.endpoints.get(&key, 0) {
            return Ok(slot);
        }
        let slot = self.free_slots.pop_front().ok_or(WatchError::Full)?;
        match self.assign(key, slot) {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.free_slots.push_back(slot);
                Err(error.into())
            }
        }
    }

    /// Clears a slot and assigns it. Connections of its last owner are removed first: if that pod is watched again, they
    /// would count for the new owner.
    fn assign(&mut self, key: EndpointKey, slot: u32) -> Result<(), MapError> {
        self.remove_connections(|_, connection| connection.slot == slot)?;
        self.loads.set(slot, Load::default(), 0)?;
        for kind in 0..LATENCY_KINDS {
            let empty = Histogram { sum_ns: 0, counts: [0; BUCKETS as usize] };
            self.latencies.set(slot * LATENCY_KINDS + kind, empty, 0)?;
        }
        self.endpoints.insert(key, slot, 0)
    }

    fn release(&mut self, cgroup_id: u64, slots: &[(u16, u32)]) {
        for &(port, slot) in slots {
            let _ = self.endpoints.remove(&EndpointKey::new(cgroup_id, port));
            self.free_slots.push_back(slot);
        }
    }

    fn attach(&mut self, cgroup_id: u64, path: &Path, cgroup: &File) -> Result<Vec<Link>, WatchError> {
        let mut links = Vec::with_capacity(3);
        let attach = |program, source| WatchError::Attach { program, path: path.to_owned(), source };
        // Ingress last, so that no request starts before the other programs can see its end.
        let sockets: &mut SockOps = self.program(SOCKETS)?;
        let id =
            sockets.attach(cgroup, CgroupAttachMode::Single).map_err(|source| attach(SOCKETS, source))?;
        let link = sockets.take_link(id).map_err(|source| attach(SOCKETS, source))?;
        links.push((SOCKETS, FdLink::try_from(link)?));
        for (program, direction) in
            [(EGRESS, CgroupSkbAttachType::Egress), (INGRESS, CgroupSkbAttachType::Ingress)]
        {
            let skb: &mut CgroupSkb = self.program(program)?;
            let id = skb
                .attach(cgroup, direction, CgroupAttachMode::Single)
                .map_err(|source| attach(program, source))?;
            let link = skb.take_link(id).map_err(|source| attach(program, source))?;
            links.push((program, FdLink::try_from(link)?));
        }
        links.into_iter().map(|(program, link)| self.pin(cgroup_id, program, link)).collect()
    }

    /// Pins a link in place of the one of an earlier agent. Until that is removed both programs run on the same maps, and
    /// the second one takes every segment for a retransmit.
    fn pin(&self, cgroup_id: u64, program: &'static str, link: FdLink) -> Result<Link, WatchError> {
        let Some(pins) = &self.pins else {
            return Ok(Link::Held(link));
        };
        let path = pins.link(cgroup_id, program);
        // Usually it does not exist. If it cannot be removed, pinning fails.
        let _ = fs::remove_file(&path);
        link.pin(path).map(Link::Pinned).map_err(|error| WatchError::Pin { program, source: error.into() })
    }

    fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, WatchError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let missing =
            || WatchError::Attach { program: name, path: PathBuf::new(), source: ProgramError::NotLoaded };
        let program = self.ebpf.program_mut(name).ok_or_else(missing)?;
        program.try_into().map_err(|source| WatchError::Attach {
            program: name,
            path: PathBuf::new(),
            source,
        })
    }

    /// Writes the bitmap of the ports of all endpoints.
    fn write_ports(&mut self) -> Result<(), WatchError> {
        let mut words = std::collections::HashMap::<u32, u64>::new();
        for key in self.endpoints.keys() {
            let port = key?.port;
            *words.entry(u32::from(port) >> 6).or_default() |= 1 << (port & 63);
        }
        for index in 0..self.ports.len() {
            let word = words.get(&index).copied().unwrap_or_default();
            if self.ports.get(&index, 0)? != word {
                self.ports.set(index, word, 0)?;
            }
        }
        Ok(())
    }
}
