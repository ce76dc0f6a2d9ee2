//! Finds the pod of a process.

use std::{fs, path::Path};

/// Returns the pod of a process, by the uid in its cgroup path. `pid` is the host's, and `proc` is the mount point of the
/// host's `/proc`.
pub fn pod_of_process(proc: &Path, pid: u32) -> Option<String> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(crate::discover::pod_uid_in_path)
}
