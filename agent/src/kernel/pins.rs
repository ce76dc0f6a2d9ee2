//! Where maps and links are pinned.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use forebay_agent_ebpf::{
    framing::Connection,
    maps::{
        EVENT_RING_BYTES, EndpointKey, GpuSample, Histogram, LATENCY_KINDS, Load, MAX_CONNECTIONS,
        MAX_ENDPOINTS, MAX_GPUS, SCHEMA, STATS, WATCHED_PORT_WORDS, name,
    },
};

/// A folder on a bpffs that is ours: `<root>/v<schema>`.
#[derive(Debug)]
pub(super) struct PinFolder {
    folder: PathBuf,
    /// Two agents on the same pins would take each other's events, and the first to
    /// end would remove the other's pins. The kernel unlocks it with the process.
    _lock: File,
}

/// What a map must look like: type, bytes of a key and of a value, entries.
type Layout = (MapType, u32, u32, u32);

fn layout(map: &str) -> Option<Layout> {
    const fn bytes<T>() -> u32 {
        size_of::<T>() as u32
    }
    Some(match map {
        name::PORTS => (MapType::Array, 4, 8, WATCHED_PORT_WORDS),
        name::ENDPOINTS => (MapType::Hash, bytes::<EndpointKey>(), 4, MAX_ENDPOINTS),
        name::CONNECTIONS => (MapType::Hash, 8, bytes::<Connection>(), MAX_CONNECTIONS),
        name::LOADS => (MapType::Array, 4, bytes::<Load>(), MAX_ENDPOINTS),
        name::LATENCIES => (MapType::Array, 4, bytes::<Histogram>(), MAX_ENDPOINTS * LATENCY_KINDS),
        name::EVENTS => (MapType::RingBuf, 0, 0, EVENT_RING_BYTES),
        name::STATS => (MapType::PerCpuArray, 4, 8, STATS),
        name::GPUS => (MapType::Array, 4, bytes::<GpuSample>(), MAX_GPUS),
        _ => return None,
    })
}

impl PinFolder {
    /// Makes the folder. The error says, in one line, why there are no pins.
    pub(super) fn create(root: &Path) -> Result<Self, String> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        if !is_bpffs(existing) {
            return Err(format!("no bpffs is mounted at {}", root.display()));
        }
        let folder = root.join(format!("v{SCHEMA}"));
        fs::create_dir_all(folder.join("links"))
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let lock =
            File::open(&folder).map_err(|error| format!("cannot open {}: {error}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("another agent uses {}", folder.display()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(format!("cannot lock {}: {error}", folder.display()));
            }
        }
        let pins = Self { folder, _lock: lock };
        pins.check()?;
        Ok(pins)
    }

    /// The loader takes whatever is pinned under a map's name. One with longer values
    /// would be read beyond the end of ours.
    fn check(&self) -> Result<(), String> {
        for map in name::ALL {
            let path = self.map(map);
            if !path.exists() {
                continue;
            }
            let found = MapInfo::from_pin(&path).ok().and_then(|info| {
                Some((info.map_type().ok()?, info.key_size(), info.value_size(), info.max_entries()))
            });
            if found != layout(map) {
                return Err(format!("{} is not a map of this agent; remove it", path.display()));
            }
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The pin of one of a pod's links.
    pub(super) fn link(&self, cgroup_id: u64, program: &str) -> PathBuf {
        self.folder.join("links").join(format!("{cgroup_id}_{program}"))
    }

    /// Cgroup ids that links are pinned for, and those pins.
    pub(super) fn links(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.folder.join("links"))? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('_').next());
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                links.push((id, path));
            }
        }
        Ok(links)
    }

    /// Removes every pin; the kernel frees what nobody else holds.
    pub(super) fn remove(&self) -> io::Result<()> {
        let links = self.folder.join("links");
        for folder in [&links, &self.folder] {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path != links {
                    fs::remove_file(path)?;
                }
            }
        }
        fs::remove_dir(links)?;
        fs::remove_dir(&self.folder)?;
        if let Some(root) = self.folder.parent() {
            // Only when it is empty, and never the mount itself.
            let _ = fs::remove_dir(root);
        }
        Ok(())
    }
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: both pointers are valid; the result is read only on success.
    unsafe {
        libc::statfs(path.as_ptr(), info.as_mut_ptr()) == 0 && info.assume_init().f_type == libc::BPF_FS_MAGIC
    }
}
