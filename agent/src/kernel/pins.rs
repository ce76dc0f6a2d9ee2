//! Pins of maps and links.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use forebay_agent_ebpf::maps::{MAPS, MapSpec, SCHEMA};

/// The agent's folder on a bpffs: `<root>/v<schema>`.
#[derive(Debug)]
pub(super) struct PinFolder {
    folder: PathBuf,
    /// Lock of the folder, released when the process ends. Two agents on the same pins would consume each other's events
    /// and remove each other's pins.
    _lock: File,
}

impl PinFolder {
    /// Creates and locks the folder. The error is one line for an operator.
    pub(super) fn create(root: &Path) -> Result<Self, String> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        if !is_bpffs(existing) {
            return Err(format!("no bpffs is mounted at {}", root.display()));
        }
        let folder = root.join(format!("v{SCHEMA}"));
        fs::create_dir_all(folder.join("links"))
            .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let pins = Self::lock(folder)?;
        pins.check()?;
        Ok(pins)
    }

    fn lock(folder: PathBuf) -> Result<Self, String> {
        let lock =
            File::open(&folder).map_err(|error| format!("cannot open {}: {error}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(format!("another agent uses {}", folder.display())),
            Err(TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", folder.display())),
        }
    }

    /// Removes the pins that agents with another schema have left: their programs would run on every packet beside ours until
    /// the pods end. Those of an agent that runs are left alone.
    pub(super) fn remove_other_schemas(&self) {
        let Some(root) = self.folder.parent() else { return };
        let folders = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in folders.filter(|folder| *folder != self.folder && is_of_a_schema(folder)) {
            let Ok(old) = Self::lock(folder) else { continue };
            match old.remove() {
                Ok(()) => tracing::info!(path = %old.folder.display(), "removed the pins of another version"),
                Err(error) => tracing::warn!(
                    path = %old.folder.display(), %error,
                    "cannot remove the pins of another version; its programs still run"
                ),
            }
        }
    }

    /// Checks the pinned maps. The loader adopts any map pinned under the name, and values longer than ours would be read
    /// out of bounds.
    fn check(&self) -> Result<(), String> {
        for spec in &MAPS {
            let path = self.map(spec.name);
            if path.exists() && !is_as_specified(&path, spec) {
                return Err(format!("{} is not a map of this agent; remove it", path.display()));
            }
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Path of the pin of a pod's link.
    pub(super) fn link(&self, cgroup_id: u64, program: &str) -> PathBuf {
        self.folder.join("links").join(format!("{cgroup_id}_{program}"))
    }

    /// All pinned links: cgroup id and path.
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

    /// Removes every pin. The kernel frees maps and links without other references.
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
            // Fails if it is not empty or a mount point.
            let _ = fs::remove_dir(root);
        }
        Ok(())
    }
}

/// `…/v3`
fn is_of_a_schema(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix('v')).is_some_and(|number| number.parse::<u32>().is_ok())
}

fn is_as_specified(path: &Path, spec: &MapSpec) -> bool {
    let Ok(info) = MapInfo::from_pin(path) else { return false };
    info.map_type().is_ok_and(|found| found as u32 == spec.kind.number())
        && (info.key_size(), info.value_size(), info.max_entries())
            == (spec.key_bytes, spec.value_bytes, spec.max_entries)
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: both pointers are valid, and the result is read only on success.
    unsafe {
        libc::statfs(path.as_ptr(), info.as_mut_ptr()) == 0 && info.assume_init().f_type == libc::BPF_FS_MAGIC
    }
}
