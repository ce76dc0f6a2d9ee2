//! What the agent is started with.

use std::{net::SocketAddr, path::PathBuf};

use crate::{engine::ScrapeOptions, gpu::MonitorOptions, kernel};

#[derive(Clone, Debug)]
pub struct Config {
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
    /// Folder of Kubernetes manifests.
    pub resources: PathBuf,
    pub grpc_listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub kernel: KernelMode,
    /// The cgroup2 hierarchy; found in the mount table when absent.
    pub cgroup_root: Option<PathBuf>,
    /// The host's `/proc`.
    pub proc: PathBuf,
    pub gpus: MonitorOptions,
    pub scrape: ScrapeOptions,
}

#[derive(Clone, Debug)]
pub enum KernelMode {
    /// Count in the kernel if this machine allows it.
    Auto(kernel::Options),
    Off,
}
