//! Cgroups of a fake pod, with the layout of the kubelet's systemd driver, below a separate folder so that pods of a
//! real kubelet are not affected.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Guards the cgroup of this process: all threads of a test process share it.
static MEMBERSHIP: Mutex<()> = Mutex::new(());

/// The cgroup of a pod with one container below it. Drop removes both.
#[derive(Debug)]
pub struct PodCgroup {
    path: PathBuf,
    container: PathBuf,
}

impl PodCgroup {
    /// Creates the cgroups below `root` for a pod with this uid. Creates `root` if it does not exist.
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

    /// The file `cgroup.procs` of the container: a process joins by writing its pid.
    pub fn procs(&self) -> PathBuf {
        self.container.join("cgroup.procs")
    }

    /// Creates a listener of this process that belongs to the pod: a socket keeps the cgroup in which it was created.
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
        // Remove the parents too if this was the last pod. Otherwise they are not empty and removal fails.
        for parent in self.path.ancestors().skip(1).take(3) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

/// Removes a cgroup and those below it. Retries, because a cgroup stays busy for a moment after its last process ended.
pub(super) fn remove_cgroups(path: &Path) {
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

/// Mount point of cgroup2.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    forebay_agent::discover::CgroupRoot::find().map(|root| root.path().to_owned())
}

fn own_cgroup() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(cgroup2_mount()?.join(path.trim_start_matches('/')))
}
