//! Which pods of this node are watched, and where their cgroups are.

mod cgroup;
mod pods;

pub use cgroup::{CgroupRoot, PodCgroups};
pub use pods::{LocalPod, local_pods};
