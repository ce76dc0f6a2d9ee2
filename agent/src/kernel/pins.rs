//! Where maps and links are pinned.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use forebay_agent_ebpf::maps::SCHEMA;

/// A folder on a bpffs that is ours: `<root>/v<schema>`.
#[derive(Clone, Debug)]
pub(super) struct PinFolder {
    folder: PathBuf,
}

impl PinFolder {
    /// Makes the folder. The error says, in one line, why there are no pins.
    pub(super) fn create(root: &Path) -> Result<Self, String> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        if !is_bpffs(existing) {
            return Err(format!("no bpffs is mounted at {}", root.display()));
        }
        let folder = root.join(format!("v{SCHEMA}"));
        fs::create_dir_all(folder.join("links"))
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        Ok(Self { folder })
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The pin of one of a pod's links.
    pub(super) fn link(&self, cgroup_id: u64, program: &str) -> PathBuf {
        self.folder.join("links").join(format!("{cgroup_id}_{program}"))
    }

    /// Cgroup ids that links are pinned for, and those pins.
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

    /// Removes every pin; the kernel frees what nobody else holds.
    pub(super) fn remove(&self) -> io::Result<()> {
        for (_, link) in self.links()? {
            fs::remove_file(link)?;
        }
        fs::remove_dir(self.folder.join("links"))?;
        for entry in fs::read_dir(&self.folder)? {
            fs::remove_file(entry?.path())?;
        }
        fs::remove_dir(&self.folder)?;
        if let Some(root) = self.folder.parent() {
            // Only when it is empty, and never the mount itself.
            let _ = fs::remove_dir(root);
        }
        Ok(())
    }
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: both pointers are valid; the result is read only on success.
    unsafe {
        libc::statfs(path.as_ptr(), info.as_mut_ptr()) == 0 && info.assume_init().f_type == libc::BPF_FS_MAGIC
    }
}
