//! Stops the cluster: processes, mounts, cgroups, network namespaces, files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    BPFFS_MOUNTED, Cluster, NAMESPACES_BEFORE, OUTSIDE_BEFORE, bpffs, mounts, network, outside::Outside,
};
use crate::run;

const CONTROL: &[&str] = &["kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"];
const BASE: &[&str] = &["containerd", "kube-apiserver", "etcd"];
const GRACE: Duration = Duration::from_secs(10);
/// Maximum passes over the mounts: mounts may be nested.
const UNMOUNT_ROUNDS: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Cluster {
    pub(crate) fn down(&self) -> Result<()> {
        if !self.state.exists() {
            run::say("no cluster is running");
            return Ok(());
        }
        let started = Instant::now();
        // Without this file the cluster no longer counts as running.
        let _ = fs::remove_file(self.admin());
        self.kill(CONTROL);
        self.kill_pods();
        self.kill(BASE);
        self.unmount()?;
        remove_cgroups();
        let before = fs::read_to_string(self.path(NAMESPACES_BEFORE)).unwrap_or_default();
        network::remove(&before.lines().map(String::from).collect::<Vec<_>>());
        bpffs::remove(&self.path(BPFFS_MOUNTED))?;
        if let Some(outside) = Outside::load(Path::new("/"), &self.path(OUTSIDE_BEFORE))? {
            outside.restore()?;
        }
        fs::remove_dir_all(&self.state).with_context(|| format!("cannot remove {}", self.state.display()))?;
        run::say(&format!("cluster stopped after {:.1} s", started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Sends SIGKILL: the state that the programs would save is removed next.
    pub(super) fn kill(&self, programs: &[&str]) {
        programs.iter().for_each(|program| self.signal(program, "-KILL"));
        wait_while(GRACE, || programs.iter().any(|program| self.pid(program).is_some()));
    }

    /// Kills all processes in the pod cgroups, and the containerd shims, which outlive containerd. Shims are
    /// identified by the socket in their command line.
    fn kill_pods(&self) {
        let pods = || -> BTreeSet<u32> { pod_cgroups().iter().flat_map(|root| processes(root)).collect() };
        let deadline = Instant::now() + GRACE;
        while !pods().is_empty() && Instant::now() < deadline {
            pods().into_iter().for_each(kill);
            std::thread::sleep(POLL_INTERVAL);
        }
        let socket = self.path("containerd.sock").display().to_string();
        for pid in all_processes() {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            if command.contains("containerd-shim-runc-v2") && command.contains(&socket) {
                kill(pid);
            }
        }
    }

    /// Unmounts everything below the state folder, deepest first. Some mounts disappear with others, so only mounts
    /// that remain are an error.
    fn unmount(&self) -> Result<()> {
        for _ in 0..UNMOUNT_ROUNDS {
            let mounts = self.mounts()?;
            if mounts.is_empty() {
                return Ok(());
            }
            for mount in mounts {
                let _ = run::quiet(Command::new("umount").args(["-l", &mount]));
            }
        }
        bail!("still mounted: {}", self.mounts()?.join(", "))
    }

    fn mounts(&self) -> Result<Vec<String>> {
        mounts::below(&self.state)
    }
}

fn wait_while(timeout: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + timeout;
    while condition() && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn kill(pid: u32) {
    let _ = run::quiet(Command::new("kill").args(["-KILL", &pid.to_string()]));
}

/// Whether a kubelet runs pods on this machine.
pub(super) fn pods_run_here() -> bool {
    pod_cgroups().iter().any(|root| !processes(root).is_empty())
}

/// The cgroup `kubepods` of every hierarchy.
fn pod_cgroups() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let mut roots: Vec<PathBuf> =
        fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    roots.push(base.to_owned());
    roots.into_iter().map(|root| root.join("kubepods")).filter(|pods| pods.is_dir()).collect()
}

fn processes(cgroup: &Path) -> Vec<u32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> =
        own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect();
    for below in folders(cgroup) {
        pids.extend(processes(&below));
    }
    pids
}

fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn all_processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn remove_cgroups() {
    fn remove(cgroup: &Path) {
        folders(cgroup).for_each(|below| remove(&below));
        // A busy cgroup belongs to another kubelet.
        let _ = fs::remove_dir(cgroup);
    }
    pod_cgroups().iter().for_each(|root| remove(root));
}
