//! A temporary bpffs mount.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A mounted bpffs. Drop unmounts it.
#[derive(Debug)]
pub struct BpfMount {
    path: PathBuf,
}

impl BpfMount {
    /// Mounts a bpffs on an existing folder. Requires root.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mount =
            Command::new("mount").args(["-t", "bpf", "bpf"]).arg(path).stderr(Stdio::piped()).output()?;
        if mount.status.success() {
            Ok(Self { path: path.to_owned() })
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&mount.stderr).trim().to_owned()))
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        // Lazy: a process may still use the mount.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
