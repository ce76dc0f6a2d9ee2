//! A pod's cgroup, as the kubelet's systemd driver lays it out, below a folder of our
//! own, so that no real kubelet's pods are near.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// A process is in one cgroup at a time, and so are a test binary's threads.
static MEMBERSHIP: Mutex<()> = Mutex::new(());

/// A pod's cgroup with one container's below it. Removed at the end.
#[derive(Debug)]
pub struct PodCgroup {
    path: PathBuf,
    container: PathBuf,
}

impl PodCgroup {
    /// Below `root` (made if it is not there), for a pod of this uid.
    pub fn new(root: &Path, uid: &str) -> io::Result<Self> {
        let slice = uid.replace('-', "_");
        let path = root
            .join(format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice"));
        let container = path.join(format!("cri-containerd-{}.scope", "ab".repeat(32)));
        fs::create_dir_all(&container)?;
        Ok(Self { path, container })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a process of the pod writes its id to be in it.
    pub fn procs(&self) -> PathBuf {
        self.container.join("cgroup.procs")
    }

    /// A listener that belongs to the pod, in this process: a socket keeps the
    /// cgroup it was made in.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let _membership = MEMBERSHIP.lock().unwrap_or_else(PoisonError::into_inner);
        let home = own_cgroup()?;
        fs::write(self.procs(), "0")?;
        let listener = TcpListener::bind(address);
        fs::write(home.join("cgroup.procs"), "0")?;
        listener
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        remove_cgroups(&self.path);
        // The folders above go with the last pod; until then they are not empty.
        for parent in self.path.ancestors().skip(1).take(3) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

/// A cgroup whose last process has just ended stays busy for a moment.
fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while let Err(error) = fs::remove_dir(path) {
        if error.kind() != ErrorKind::ResourceBusy || std::time::Instant::now() > deadline {
            return;
        }
        std::thread::yield_now();
    }
}

/// Where cgroup2 is mounted on this machine.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    forebay_agent::discover::CgroupRoot::find().map(|root| root.path().to_owned())
}

fn own_cgroup() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(cgroup2_mount()?.join(path.trim_start_matches('/')))
}
