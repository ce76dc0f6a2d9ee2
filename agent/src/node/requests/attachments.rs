//! Keeps the kernel programs attached to the cgroups of the node's pods.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    discover::{CgroupRoot, LocalPod, PodCgroups},
    kernel::Kernel,
};

/// Interval of checks whether cgroups were recreated.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause between two searches for missing cgroups.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A missing cgroup is logged once the pause is longer: the kubelet creates it shortly after the pod is assigned.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// The pods of the node and their attachments.
pub(super) struct Attachments {
    root: CgroupRoot,
    pods: Vec<LocalPod>,
    /// Path and id of the cgroups of watched pods.
    cgroups: Vec<(PathBuf, u64)>,
    /// Some pod is not watched yet.
    incomplete: bool,
    next_check: Instant,
    pause: Duration,
    /// The last logged reason why a pod is not watched, by uid.
    logged: HashMap<String, String>,
}

/// Slots (port and slot) of a pod, or the reason why it is not watched.
pub(super) type Attached = Result<Vec<(u16, u32)>, String>;

impl Attachments {
    pub(super) fn new(root: CgroupRoot) -> Self {
        Self {
            root,
            pods: Vec::new(),
            cgroups: Vec::new(),
            incomplete: false,
            next_check: Instant::now(),
            pause: FIRST_PAUSE,
            logged: HashMap::new(),
        }
    }

    /// When [`Self::needs_attach`] must be called.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    pub(super) fn pods(&self) -> &[LocalPod] {
        &self.pods
    }

    /// Sets the pods of the node. [`Self::attach`] must follow.
    pub(super) fn set_pods(&mut self, pods: Vec<LocalPod>) {
        self.logged.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        self.pods = pods;
        self.pause = FIRST_PAUSE;
    }

    /// Returns whether a cgroup was missing or recreated. Schedules the next check.
    pub(super) fn needs_attach(&mut self) -> bool {
        let recreated =
            self.cgroups.iter().any(|(path, id)| !fs::metadata(path).is_ok_and(|now| now.ino() == *id));
        self.next_check = Instant::now() + if self.incomplete { self.pause } else { CHECK_INTERVAL };
        recreated || self.incomplete
    }

    /// After a repeated [`Self::attach`]: the next search comes later.
    pub(super) fn back_off(&mut self) {
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.next_check = Instant::now() + if self.incomplete { self.pause } else { CHECK_INTERVAL };
    }

    /// Attaches the programs to all pods and detaches them from all others.
    ///
    /// Fails if the cgroups cannot be listed. Attached programs then stay attached.
    pub(super) fn attach(&mut self, kernel: &mut Kernel) -> Result<Vec<(LocalPod, Attached)>, String> {
        self.next_check = Instant::now() + self.pause;
        self.incomplete = true;
        let cgroups = match self.root.pods() {
            Ok(cgroups) => cgroups,
            Err(error) if error.kind() == ErrorKind::NotFound => PodCgroups::default(),
            Err(error) => return Err(format!("cannot list cgroups: {error}")),
        };
        self.incomplete = false;
        self.cgroups.clear();
        let mut results = Vec::with_capacity(self.pods.len());
        for pod in self.pods.clone() {
            let attached = self.attach_pod(kernel, &pod, &cgroups);
            results.push((pod, attached));
        }
        let ids = self.cgroups.iter().map(|(_, id)| *id).collect();
        if let Err(error) = kernel.retain(&ids) {
            tracing::warn!(%error, "cannot detach the kernel programs from deleted pods");
        }
        Ok(results)
    }

    fn attach_pod(&mut self, kernel: &mut Kernel, pod: &LocalPod, cgroups: &PodCgroups) -> Attached {
        let cgroup = cgroup_of(pod, cgroups, self.root.path());
        let is_missing = matches!(cgroup, Ok(None));
        let watched = match cgroup {
            Ok(Some(path)) => {
                kernel.watch(path, &pod.ports).map(|watched| (path, watched)).map_err(|it| it.to_string())
            }
            Ok(None) => Err(format!("no cgroup of the pod under {}", self.root.path().display())),
            Err(reason) => Err(reason),
        };
        match watched {
            Ok((path, watched)) => {
                self.cgroups.push((path.to_owned(), watched.cgroup_id));
                self.logged.remove(&pod.uid);
                Ok(watched.slots)
            }
            Err(reason) => {
                self.incomplete = true;
                if !is_missing || self.pause > LOG_PAUSE {
                    self.log_once(pod, &reason);
                }
                Err(reason)
            }
        }
    }

    /// Logs each reason once per pod.
    pub(super) fn log_once(&mut self, pod: &LocalPod, reason: &str) {
        if self.logged.get(&pod.uid).is_none_or(|logged| logged != reason) {
            self.logged.insert(pod.uid.clone(), reason.to_owned());
            tracing::warn!(pod = %pod.key, %reason, "requests of the pod are not counted in the kernel");
        }
    }
}

/// The cgroup in which the pod's sockets are. `None` if it does not exist yet. Fails if its requests cannot be counted.
fn cgroup_of<'a>(pod: &LocalPod, cgroups: &'a PodCgroups, root: &Path) -> Result<Option<&'a Path>, String> {
    let uid = pod.cgroup_uid.as_ref().map_err(Clone::clone)?;
    if let Some(outside) = cgroups.outside(uid) {
        let shown = outside.strip_prefix(root).unwrap_or(outside).display();
        return Err(format!(
            "a container is in {shown}, not in the cgroup of its pod: set SystemdCgroup = true in the container runtime"
        ));
    }
    Ok(cgroups.get(uid))
}
