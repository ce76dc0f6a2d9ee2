//! A cgroup with a memory limit, as the kubelet gives one to a container.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::cgroup::remove_cgroups;

/// A memory limit of one process. Drop removes it.
#[derive(Debug)]
pub struct MemoryLimit {
    path: PathBuf,
    bytes: u64,
    version: Version,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    V1,
    V2,
}

impl MemoryLimit {
    /// Creates a cgroup with this limit, and without swap where the kernel can limit it.
    pub fn new(bytes: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (root, version) = controller()?;
        let name = format!("forebay-memory-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let limit = Self { path: root.join(name), bytes, version };
        fs::create_dir(&limit.path)?;
        let (max, swap, swap_bytes) = match version {
            Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Version::V2 => ("memory.max", "memory.swap.max", 0),
        };
        fs::write(limit.path.join(max), bytes.to_string())?;
        match fs::write(limit.path.join(swap), swap_bytes.to_string()) {
            // The kernel does not count swap.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(limit),
        }
    }

    /// The file `cgroup.procs`: a process joins by writing its pid.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The limit.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Processes that the kernel killed because of the limit.
    pub fn kills(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.path.join(file))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.ok_or_else(|| io::Error::other(format!("no oom_kill in {file}")))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        remove_cgroups(&self.path);
    }
}

/// Folder in which cgroups with memory limits can be made.
fn controller() -> io::Result<(PathBuf, Version)> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(fields.next()?), fields.next()?, fields.next()?))
    });
    let found = mounts.find_map(|(path, kind, options)| match kind {
        "cgroup" if options.split(',').any(|option| option == "memory") => Some((path, Version::V1)),
        "cgroup2" if has_controller(&path, "cgroup.controllers") => Some((path, Version::V2)),
        _ => None,
    });
    let (path, version) = found.ok_or_else(|| io::Error::other("no memory controller is mounted"))?;
    if matches!(version, Version::V2) && !has_controller(&path, "cgroup.subtree_control") {
        fs::write(path.join("cgroup.subtree_control"), "+memory")?;
    }
    Ok((path, version))
}

fn has_controller(path: &Path, file: &str) -> bool {
    fs::read_to_string(path.join(file)).is_ok_and(|text| text.split_whitespace().any(|it| it == "memory"))
}
