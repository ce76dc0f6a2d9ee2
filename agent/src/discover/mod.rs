//! Finds the pods to watch on this node, and their cgroups.

mod cgroup;
mod pods;

pub use cgroup::{CgroupRoot, PodCgroups, pod_uid_in_path};
pub use pods::{LocalPod, local_pods};
