//! Which pods are watched: slots, cgroup links, adoption.

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
        links::{FdLink, LinkError, PinnedLink},
    },
};
use forebay_agent_ebpf::{
    histogram::BUCKETS,
    maps::{EndpointKey, Histogram, LATENCY_KINDS, Load, MAX_ENDPOINTS},
};

use super::load::{EGRESS, INGRESS, Kernel, SOCKETS};

/// A pod's cgroup with programs on it.
#[derive(Debug)]
pub(super) struct Attached {
    /// Port and slot.
    pub(super) slots: Vec<(u16, u32)>,
    _links: Vec<Link>,
}

/// Dropping it detaches the program, or leaves that to the pin.
#[derive(Debug)]
enum Link {
    #[expect(dead_code, reason = "held for its drop")]
    Held(FdLink),
    #[expect(dead_code, reason = "held for its drop")]
    Pinned(PinnedLink),
}

/// A watched pod, as the reader needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Inode of the pod's cgroup.
    pub cgroup_id: u64,
    /// Port and slot, in the order of the ports asked for.
    pub slots: Vec<(u16, u32)>,
}

/// Why a pod is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot open the cgroup {path}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("no slot is free: this agent follows at most {MAX_ENDPOINTS} pod ports")]
    Full,
    #[error("cannot attach {program} to {path}: {source}")]
    Attach { program: &'static str, path: PathBuf, source: ProgramError },
    #[error("cannot pin the link of {program}: {source}")]
    Pin { program: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot write a BPF map: {0}")]
    Map(#[from] MapError),
    #[error("cannot detach: {0}")]
    Link(#[from] LinkError),
}

impl Kernel {
    /// Takes over what an earlier agent left pinned: its slots stay what they were,
    /// so that no counter starts again.
    pub(super) fn adopt(&mut self) {
        let taken: HashSet<u32> =
            self.endpoints.iter().filter_map(|entry| entry.ok().map(|(_, slot)| slot)).collect();
        self.free_slots = (0..MAX_ENDPOINTS).filter(|slot| !taken.contains(slot)).collect();
    }

    /// Watches a pod's ports, and no others of it. Asked again for the same cgroup, it
    /// changes only what is different.
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

    /// Stops watching everything that is not of one of these pods, and what an earlier
    /// agent watched and this one was not asked to.
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

    /// The slot of an endpoint: the one it had, or a cleared one.
    fn slot(&mut self, key: EndpointKey) -> Result<u32, WatchError> {
        if let Ok(slot) = self.endpoints.get(&key, 0) {
            return Ok(slot);
        }
        let slot = self.free_slots.pop_front().ok_or(WatchError::Full)?;
        match self.give_out(key, slot) {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.free_slots.push_back(slot);
                Err(error.into())
            }
        }
    }

    /// Connections of the slot's last owner go first: should that pod be watched
    /// again, they would count for the new one.
    fn give_out(&mut self, key: EndpointKey, slot: u32) -> Result<(), MapError> {
        self.forget_connections(|connection| connection.slot == slot)?;
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
        // Last the requests' direction: nothing can begin before its end can be seen.
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

    /// An earlier agent's link goes only now: for a moment both run on the same
    /// maps, and the second to see a segment finds it seen.
    fn pin(&self, cgroup_id: u64, program: &'static str, link: FdLink) -> Result<Link, WatchError> {
        let Some(pins) = &self.pins else {
            return Ok(Link::Held(link));
        };
        let path = pins.link(cgroup_id, program);
        // Most often there is none; what cannot be removed shows when pinning fails.
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

    /// The port bit map is that of all endpoints there are.
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
