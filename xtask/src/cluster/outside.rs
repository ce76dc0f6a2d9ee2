//! Files that the programs of the cluster write outside of its folder. No option of theirs moves them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::mounts;

/// Folders below the root of the file system, each before those below it.
const FOLDERS: [&str; 13] = [
    // The kubelet: sockets of device plugins, links to container logs, and volume plugins.
    "var/lib/kubelet",
    "var/lib/kubelet/device-plugins",
    "var/log/pods",
    "var/log/containers",
    "usr/libexec/kubernetes",
    "usr/libexec/kubernetes/kubelet-plugins",
    // The CNI plugins: results of their calls.
    "var/lib/cni",
    "var/lib/cni/results",
    "etc/cni",
    "etc/cni/net.d",
    // containerd and runc: sockets and state of containers.
    "run/containerd",
    "run/containerd/s",
    "run/containerd/runc",
];

/// What was in the folders before the cluster: the names in each, or `None` for a folder that did not exist.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside {
    root: PathBuf,
    before: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Outside {
    pub(super) fn now(root: &Path) -> Result<Self> {
        let mut before = BTreeMap::new();
        for folder in FOLDERS {
            before.insert(folder.to_owned(), names(&root.join(folder))?);
        }
        Ok(Self { root: root.to_owned(), before })
    }

    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec(&self.before)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// `None` without a file: the start of the cluster was interrupted before it was written.
    pub(super) fn load(root: &Path, file: &Path) -> Result<Option<Self>> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let before = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a list of the files before the cluster", file.display()))?;
        Ok(Some(Self { root: root.to_owned(), before }))
    }

    /// Removes what is new. A folder that existed before keeps what it had.
    pub(super) fn restore(&self) -> Result<()> {
        for (folder, before) in &self.before {
            let folder = self.root.join(folder);
            let Some(before) = before else {
                remove(&folder)?;
                continue;
            };
            for name in names(&folder)?.unwrap_or_default().difference(before) {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// The names in a folder. `None` if it does not exist.
fn names(folder: &Path) -> Result<Option<BTreeSet<String>>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", folder.display())),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map(Some).with_context(|| format!("cannot list {}", folder.display()))
}

/// Removes a file, a link or a folder, if it exists. Files of another file system are not touched.
fn remove(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if metadata.is_dir() {
        if let Some(mount) = mounts::below(path)?.first() {
            bail!("cannot remove {}: {mount} is mounted", path.display());
        }
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder that is removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("forebay-outside-{}-{test}", std::process::id()));
            fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        fn write(&self, file: &str) {
            let file = self.0.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }

        /// All files, links and empty folders, as paths below the root.
        fn list(&self) -> BTreeSet<PathBuf> {
            fn add(folder: &Path, list: &mut BTreeSet<PathBuf>) {
                let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).collect();
                if entries.is_empty() {
                    list.insert(folder.to_owned());
                }
                for entry in entries {
                    if entry.file_type().unwrap().is_dir() {
                        add(&entry.path(), list);
                    } else {
                        list.insert(entry.path());
                    }
                }
            }
            let mut list = BTreeSet::new();
            add(&self.0, &mut list);
            list
        }

        fn leave_what_a_cluster_leaves(&self) {
            for file in [
                "var/lib/kubelet/device-plugins/kubelet.sock",
                "var/lib/kubelet/device-plugins/DEPRECATION",
                "usr/libexec/kubernetes/kubelet-plugins/volume/exec/file",
                "var/lib/cni/results/forebay-0a1b-eth0",
                "etc/cni/net.d/file",
                "run/containerd/s/0a1b",
                "run/containerd/runc/k8s.io/state",
            ] {
                self.write(file);
            }
            fs::create_dir_all(self.0.join("var/log/containers")).unwrap();
            symlink("/nowhere", self.0.join("var/log/containers/pod_container.log")).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Saves the state, lets a cluster leave its files, and restores the state as `down` does.
    fn up_and_down(root: &Root) {
        let file = root.0.with_extension("json");
        Outside::now(&root.0).unwrap().save(&file).unwrap();
        root.leave_what_a_cluster_leaves();
        Outside::load(&root.0, &file).unwrap().unwrap().restore().unwrap();
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn nothing_is_left_on_a_machine_without_kubernetes() {
        let root = Root::new("empty");
        for folder in ["var/lib", "var/log", "usr/libexec", "etc", "run"] {
            fs::create_dir_all(root.0.join(folder)).unwrap();
        }
        let before = root.list();
        up_and_down(&root);
        assert_eq!(root.list(), before);
    }

    #[test]
    fn files_from_before_the_cluster_are_kept() {
        let root = Root::new("kept");
        for file in [
            "var/lib/kubelet/config.yaml",
            "var/lib/cni/results/other-0a1b-eth0",
            "etc/cni/net.d/10-other.conflist",
            "run/containerd/s/other",
            "usr/libexec/kubernetes/other",
            "var/log/containers/other.log",
        ] {
            root.write(file);
        }
        let before = root.list();
        up_and_down(&root);
        assert_eq!(root.list(), before);
    }

    #[test]
    fn an_interrupted_start_has_nothing_to_restore() {
        let root = Root::new("interrupted");
        assert_eq!(Outside::load(&root.0, &root.0.join("none.json")).unwrap(), None);
        root.write("broken.json");
        let error = Outside::load(&root.0, &root.0.join("broken.json")).unwrap_err();
        assert!(error.to_string().contains("broken.json is not a list"), "{error}");
    }
}
