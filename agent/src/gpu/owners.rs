//! Which pod a process belongs to.

use std::{fs, path::Path};

/// The kubelet's name of the pod that a process (by its host id) runs in, from the
/// cgroup path under `proc` (`/proc`, or where the host's is mounted).
pub fn pod_of_process(proc: &Path, pid: u32) -> Option<String> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(crate::discover::pod_uid_in_path)
}
