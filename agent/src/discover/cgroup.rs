//! Finds the cgroups of pods by the paths that the kubelet uses.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Maximum depth of a pod's cgroup below the root, and in the kernel programs. The kubelet's paths have at most 4 levels;
/// a nested node (kind in a user's session) adds 5.
const MAX_DEPTH: usize = 9;

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
    by_uid: HashMap<String, Vec<PathBuf>>,
    /// A container's cgroup outside of its pod's cgroup, by pod.
    outside: HashMap<String, PathBuf>,
}

impl PodCgroups {
    /// Returns the folders of a pod's cgroup: one, unless another cgroup driver left its own. `cgroup_uid` is the uid in
    /// the path.
    pub fn all(&self, cgroup_uid: &str) -> &[PathBuf] {
        self.by_uid.get(cgroup_uid).map_or(&[], Vec::as_slice)
    }

    /// The number of pods.
    pub fn count(&self) -> usize {
        self.by_uid.len()
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
            found.by_uid.entry(uid).or_default().push(path);
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
        uid.or_else(|| pod_uid_of_container(name))
    })
}

/// Returns the pod uid in `<slice of the pod>:<runtime>:<container>`. containerd and CRI-O create such a folder when the
/// kubelet uses the systemd driver and they do not (`SystemdCgroup = false`).
fn pod_uid_of_container(name: &str) -> Option<String> {
    let (slice, container) = name.split_once(':')?;
    // CRI-O's monitor of a container, which has no sockets of the pod.
    if container.starts_with("crio-conmon") {
        return None;
    }
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

    const UID: &str = "6b3b1f2e-7a0c-4a57-9d0e-0123456789ab";

    /// Layouts: the folder of the pod, and those of its containers below. `S` is the uid in a slice name, `U` the uid as
    /// it is, `C` the id of a container.
    const LAYOUTS: [(&str, &str, &[&str]); 13] = [
        ("cgroupfs, containerd or cri-dockerd", "kubepods/besteffort/podU", &["C"]),
        ("cgroupfs, guaranteed", "kubepods/podU", &["C"]),
        (
            "systemd, containerd",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podS.slice",
            &["cri-containerd-C.scope"],
        ),
        (
            "systemd, CRI-O with conmon in the pod",
            "kubepods.slice/kubepods-podS.slice",
            &["crio-C.scope/container", "crio-conmon-C.scope"],
        ),
        ("cgroupfs, CRI-O", "kubepods/burstable/podU", &["crio-C", "crio-conmon-C"]),
        (
            "systemd, cri-dockerd",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS.slice",
            &["docker-C.scope"],
        ),
        ("systemd, Podman", "kubepods.slice/kubepods-podS.slice", &["libpod-C.scope/container"]),
        (
            "kind, as its nodes see it",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podS.slice",
            &["cri-containerd-C.scope"],
        ),
        (
            "kind, as the host sees it",
            "docker.slice/docker-C.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podS.slice",
            &["cri-containerd-C.scope"],
        ),
        (
            "kind in a user's session",
            "user.slice/user-1000.slice/user@1000.service/user.slice/docker-C.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podS.slice",
            &["cri-containerd-C.scope"],
        ),
        (
            "k3s in its own slice",
            "k3s.slice/k3s-kubepods.slice/k3s-kubepods-podS.slice",
            &["cri-containerd-C.scope"],
        ),
        (
            "k3s in a user's session",
            "user.slice/user-1000.slice/user@1000.service/app.slice/k3s-rootless.service/kubepods/burstable/podU",
            &["C"],
        ),
        ("Docker in Docker", "docker/C/kubelet/kubepods/besteffort/podU", &["C"]),
    ];

    #[test]
    fn finds_the_pod_in_every_layout() {
        let fill = |path: &str| {
            path.replace("podU", &format!("pod{UID}"))
                .replace("podS", &format!("pod{}", UID.replace('-', "_")))
                .split('/')
                .map(|name| match name {
                    "C" => "c".repeat(64),
                    name => name.replace("-C", &format!("-{}", "c".repeat(64))),
                })
                .collect::<Vec<_>>()
                .join("/")
        };
        for (layout, pod, containers) in LAYOUTS {
            let root = tempfile::tempdir().unwrap();
            let pod = root.path().join(fill(pod));
            for container in containers {
                fs::create_dir_all(pod.join(fill(container))).unwrap();
            }
            // Other folders are not taken for pods.
            for other in [
                "podruntime/kubelet",
                "system.slice/crio-conmon-0a1b.scope",
                &format!("system.slice/pod{UID}"),
            ] {
                fs::create_dir_all(root.path().join(other)).unwrap();
            }
            let pods = CgroupRoot::at(root.path()).pods().unwrap();
            assert_eq!(pods.all(UID), std::slice::from_ref(&pod), "{layout}");
            assert_eq!((pods.count(), pods.outside(UID)), (1, None), "{layout}");
            for container in containers {
                let process = pod.join(fill(container)).display().to_string();
                assert_eq!(pod_uid_in_path(&process).as_deref(), Some(UID), "{layout}: {process}");
            }
        }
    }

    #[test]
    fn finds_containers_outside_of_their_pod() {
        let root = tempfile::tempdir().unwrap();
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        let pod = root.path().join("kubepods.slice/kubepods-burstable.slice").join(&slice);
        fs::create_dir_all(&pod).unwrap();
        let found = || {
            let pods = CgroupRoot::at(root.path()).pods().unwrap();
            assert_eq!(pods.all(UID), std::slice::from_ref(&pod));
            pods.outside(UID).map(Path::to_owned)
        };
        assert_eq!(found(), None);
        for (parent, runtime) in [("", "cri-containerd"), ("system.slice", "cri-containerd"), ("", "crio")] {
            let name = format!("{slice}:{runtime}:{}", "a".repeat(64));
            let container = root.path().join(parent).join(&name);
            fs::create_dir_all(&container).unwrap();
            assert_eq!(found(), Some(container.clone()));
            assert_eq!(pod_uid_in_path(&format!("/{parent}/{name}")).as_deref(), Some(UID));
            fs::remove_dir(&container).unwrap();
        }
        fs::create_dir(root.path().join(format!("{slice}:crio-conmon:{}", "a".repeat(64)))).unwrap();
        assert_eq!(found(), None, "the monitor of a container has no sockets of the pod");
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
