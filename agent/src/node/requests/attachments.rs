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
            Ok(None) => Err(missing(cgroups, self.root.path())),
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
    let shown = |path: &'a Path| path.strip_prefix(root).unwrap_or(path).display();
    if let Some(outside) = cgroups.outside(uid) {
        return Err(format!(
            "a container is in {}, not in the cgroup of its pod: let the container runtime use the systemd cgroup driver, as the kubelet does ({})",
            shown(outside),
            if outside.to_string_lossy().contains(":crio:") {
                "CRI-O: cgroup_manager = \"systemd\""
            } else {
                "containerd: SystemdCgroup = true"
            }
        ));
    }
    match cgroups.all(uid) {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        // One may be a leftover of another cgroup driver.
        [first, second, ..] => match populated(cgroups.all(uid)).as_slice() {
            [only] => Ok(Some(*only)),
            _ => Err(format!("the pod has several cgroups: {} and {}", shown(first), shown(second))),
        },
    }
}

/// Cgroups with processes in them or below them (cgroup-v2, `cgroup.events`).
fn populated(cgroups: &[PathBuf]) -> Vec<&Path> {
    let has_processes = |path: &&PathBuf| {
        fs::read_to_string(path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    };
    cgroups.iter().filter(has_processes).map(PathBuf::as_path).collect()
}

fn missing(cgroups: &PodCgroups, root: &Path) -> String {
    let root = root.display();
    match cgroups.count() {
        0 => format!(
            "no cgroup of any pod under {root}: --cgroup-root is not the cgroup2 hierarchy of the node, or the layout is not known"
        ),
        pods => format!("no cgroup of the pod under {root}, which has those of {pods} pods"),
    }
}

#[cfg(test)]
mod tests {
    use forebay_resources::ObjectKey;

    use super::*;

    const UID: &str = "6b3b1f2e-7a0c-4a57-9d0e-0123456789ab";

    fn pod() -> LocalPod {
        LocalPod {
            key: ObjectKey { namespace: "a".into(), name: "p".into() },
            uid: UID.into(),
            cgroup_uid: Ok(UID.into()),
            runtime_class: None,
            ip: None,
            ports: Vec::new(),
        }
    }

    fn found(root: &Path) -> Result<Option<PathBuf>, String> {
        let cgroups = CgroupRoot::at(root).pods().unwrap();
        cgroup_of(&pod(), &cgroups, root).map(|path| path.map(Path::to_owned))
    }

    #[test]
    fn the_cgroup_with_processes_is_chosen() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("kubepods/burstable").join(format!("pod{UID}"));
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        let new = root.path().join("kubepods.slice/kubepods-burstable.slice").join(slice);
        for (cgroup, populated) in [(&old, 0), (&new, 1)] {
            fs::create_dir_all(cgroup).unwrap();
            fs::write(cgroup.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n")).unwrap();
        }
        assert_eq!(found(root.path()), Ok(Some(new)));
        fs::write(old.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let reason = found(root.path()).unwrap_err();
        assert!(reason.starts_with("the pod has several cgroups: kubepods"), "{reason}");
    }

    #[test]
    fn a_container_outside_of_its_pod_is_reported_with_the_setting_of_its_runtime() {
        for (runtime, setting) in [("cri-containerd", "SystemdCgroup = true"), ("crio", "cgroup_manager")] {
            let root = tempfile::tempdir().unwrap();
            let slice = format!("kubepods-pod{}.slice", UID.replace('-', "_"));
            fs::create_dir_all(root.path().join("kubepods.slice").join(&slice)).unwrap();
            fs::create_dir_all(root.path().join("system.slice").join(format!("{slice}:{runtime}:0a1b")))
                .unwrap();
            let reason = found(root.path()).unwrap_err();
            assert!(
                reason.contains(setting) && reason.contains("a container is in system.slice"),
                "{reason}"
            );
        }
    }

    #[test]
    fn an_unknown_layout_is_said_to_be_unknown() {
        let root = tempfile::tempdir().unwrap();
        let reason = |root: &Path| missing(&CgroupRoot::at(root).pods().unwrap(), root);
        fs::create_dir_all(root.path().join("machine.slice/pods").join(UID)).unwrap();
        assert!(reason(root.path()).contains("the layout is not known"), "{}", reason(root.path()));
        fs::create_dir_all(root.path().join("kubepods/podother")).unwrap();
        assert!(reason(root.path()).contains("has those of 1 pods"), "{}", reason(root.path()));
    }
}
