//! Which pods of this node are watched, and where their cgroups are.

mod cgroup;
mod pods;

pub use cgroup::{CgroupRoot, PodCgroups, pod_uid_in_path};
pub use pods::{LocalPod, local_pods};
