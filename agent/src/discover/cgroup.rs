//! Finds the cgroups of pods by the paths that the kubelet uses.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Maximum depth of a pod's cgroup below the root. The kubelet's paths have at most 3 levels; a nested node (kind, k3s in
/// a container) adds a few.
const MAX_DEPTH: usize = 8;

/// A file that every folder of a cgroup2 hierarchy has, and no other.
const CGROUP2_FILE: &str = "cgroup.controllers";

/// The cgroup2 hierarchy: `/sys/fs/cgroup` on a unified host,
/// `/sys/fs/cgroup/unified` on a hybrid one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot(PathBuf);

impl CgroupRoot {
    /// Returns the first cgroup2 mount of the process's mount table.
    pub fn find() -> io::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        Self::in_mount_table(&table)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))
    }

    /// The hierarchy in a folder, or in its subfolder `unified` (hybrid host). For a container with the host's
    /// `/sys/fs/cgroup` mounted.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let below = path.join("unified");
        let is_cgroup2 = |folder: &Path| folder.join(CGROUP2_FILE).exists();
        Self(if !is_cgroup2(&path) && is_cgroup2(&below) { below } else { path })
    }

    /// Folder of the hierarchy.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `… <mount point> <options> [tags…] - cgroup2 …` (proc(5), mountinfo).
    fn in_mount_table(table: &str) -> Option<Self> {
        table.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mount_point = before.split(' ').nth(4)?;
            (after.split(' ').next() == Some("cgroup2")).then(|| Self(PathBuf::from(mount_point)))
        })
    }

    /// Lists the cgroups of all pods.
    pub fn pods(&self) -> io::Result<PodCgroups> {
        let mut found = PodCgroups::default();
        walk(&self.0, MAX_DEPTH, false, &mut found)?;
        Ok(found)
    }
}

/// Cgroups by pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCgroups {
    by_uid: HashMap<String, PathBuf>,
    /// A container's cgroup outside of its pod's cgroup, by pod.
    outside: HashMap<String, PathBuf>,
}

impl PodCgroups {
    /// Returns the folder of a pod's cgroup. `cgroup_uid` is the uid in the path.
    pub fn get(&self, cgroup_uid: &str) -> Option<&Path> {
        self.by_uid.get(cgroup_uid).map(PathBuf::as_path)
    }

    /// Returns the folder of a container that is not in the cgroup of its pod. Sockets of such a container cannot be
    /// attributed.
    pub fn outside(&self, cgroup_uid: &str) -> Option<&Path> {
        self.outside.get(cgroup_uid).map(PathBuf::as_path)
    }
}

fn walk(folder: &Path, depth: usize, in_kubepods: bool, found: &mut PodCgroups) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = match entry {
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => entry,
            // A file, or removed since the folder was opened.
            _ => continue,
        };
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        if in_kubepods && let Some(uid) = pod_uid(name) {
            found.by_uid.insert(uid, path);
        } else if let Some(uid) = pod_uid_of_container(name) {
            found.outside.insert(uid, path);
        } else if depth > 1 {
            let inside = in_kubepods || name.contains("kubepods");
            match walk(&path, depth - 1, inside, found) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the pod uid in the path of a pod's cgroup or of one below it.
pub fn pod_uid_in_path(path: &str) -> Option<String> {
    let mut in_kubepods = false;
    path.split('/').find_map(|name| {
        let uid = if in_kubepods { pod_uid(name) } else { None };
        in_kubepods |= name.contains("kubepods");
        uid
    })
}

/// Returns the pod uid in `<slice of the pod>:<runtime>:<container>`. containerd and CRI-O create such a folder when the
/// kubelet uses the systemd driver and they do not (`SystemdCgroup = false`).
fn pod_uid_of_container(name: &str) -> Option<String> {
    let (slice, _) = name.split_once(':')?;
    if slice.contains("kubepods") { pod_uid(slice) } else { None }
}

/// Returns the pod uid in the name of a folder:
/// - cgroupfs driver: `pod<uid>`
/// - systemd driver: `kubepods[-<qos>]-pod<uid, - as _>.slice`
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let is_uid = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_of_both_cgroup_drivers() {
        let uid = "6b3b1f2e-7a0c-4a57-9d0e-0123456789ab";
        for name in [
            format!("pod{uid}"),
            format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")),
            format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_")),
            format!("kubepods-pod{}.slice", uid.replace('-', "_")),
            format!("kubelet-kubepods-pod{}.slice", uid.replace('-', "_")),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), Some(uid), "{name}");
        }
        let hash = "1f9b3c0a5d7e4b2f8a6c9d0e1f2a3b4c";
        assert_eq!(pod_uid(&format!("kubepods-burstable-pod{hash}.slice")).as_deref(), Some(hash));
    }

    #[test]
    fn rejects_other_names() {
        for name in [
            "kubepods.slice",
            "kubepods-besteffort.slice",
            "burstable",
            "besteffort",
            "cri-containerd-0123.scope",
            "pod",
            "podruntime.slice",
            "system.slice",
        ] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn finds_pods_in_every_layout() {
        let root = tempfile::tempdir().unwrap();
        let uid = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
        let slice = |n: u32| uid(n).replace('-', "_");
        let layouts = [
            (1, format!("kubepods/burstable/pod{}/{}", uid(1), "a".repeat(64))),
            (2, format!("kubepods/pod{}/{}", uid(2), "b".repeat(64))),
            (
                3,
                format!(
                    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-{}.scope",
                    slice(3),
                    "c".repeat(64)
                ),
            ),
            (
                4,
                format!(
                    "kubepods.slice/kubepods-pod{}.slice/crio-{}.scope/container",
                    slice(4),
                    "d".repeat(64)
                ),
            ),
            (
                5,
                format!(
                    "docker.slice/node.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice",
                    slice(5)
                ),
            ),
            (6, format!("system.slice/pod{}", uid(6))),
        ];
        for (_, path) in &layouts {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let pods = CgroupRoot::at(root.path()).pods().unwrap();
        for (n, path) in &layouts[..5] {
            let found = pods.get(&uid(*n)).unwrap_or_else(|| panic!("{path} not found"));
            assert!(root.path().join(path).starts_with(found), "{path}: found {}", found.display());
        }
        assert_eq!(pods.get(&uid(6)), None, "not below kubepods");
        assert_eq!(pods.by_uid.len(), 5);
    }

    #[test]
    fn finds_containers_outside_of_their_pod() {
        let root = tempfile::tempdir().unwrap();
        let uid = "6b3b1f2e-7a0c-4a57-9d0e-0123456789ab";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let pod = root.path().join("kubepods.slice/kubepods-burstable.slice").join(&slice);
        fs::create_dir_all(&pod).unwrap();
        let pods = CgroupRoot::at(root.path()).pods().unwrap();
        assert_eq!((pods.get(uid), pods.outside(uid)), (Some(&*pod), None));
        for parent in ["", "system.slice"] {
            let container =
                root.path().join(parent).join(format!("{slice}:cri-containerd:{}", "a".repeat(64)));
            fs::create_dir_all(&container).unwrap();
            let pods = CgroupRoot::at(root.path()).pods().unwrap();
            assert_eq!((pods.get(uid), pods.outside(uid)), (Some(&*pod), Some(&*container)));
            fs::remove_dir(&container).unwrap();
        }
    }

    #[test]
    fn finds_the_hierarchy_of_a_hybrid_host() {
        let host = tempfile::tempdir().unwrap();
        let unified = host.path().join("unified");
        fs::create_dir(&unified).unwrap();
        assert_eq!(CgroupRoot::at(host.path()).path(), host.path());
        fs::write(unified.join(CGROUP2_FILE), "").unwrap();
        assert_eq!(CgroupRoot::at(host.path()).path(), unified);
        fs::write(host.path().join(CGROUP2_FILE), "").unwrap();
        assert_eq!(CgroupRoot::at(host.path()).path(), host.path());
    }

    #[test]
    fn finds_the_mount_on_unified_and_hybrid_hosts() {
        let found = |table| CgroupRoot::in_mount_table(table).map(|root| root.0);
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(found(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "29 22 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(found(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(found("1 1 0:1 / / rw - ext4 /dev/a rw\n"), None);
    }
}
