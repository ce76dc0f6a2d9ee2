//! Cgroups and sockets of fake pods, laid out as the kubelet does.

mod bench;
mod bpffs;
mod cgroup;
mod memory;

pub use bench::{Bench, load_kernel};
pub use bpffs::BpfMount;
pub use cgroup::{PodCgroup, cgroup2_mount};
pub use memory::MemoryLimit;
