//! What the agent is started with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{engine::ScrapeOptions, gpu::MonitorOptions, kernel};
use forebay_resources::ResourceSource;
use forebay_service::tls::Identity;

#[derive(Clone, Debug)]
pub struct Config {
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
    /// Where InferencePools and Pods are read from.
    pub resources: ResourceSource,
    pub grpc_listen: SocketAddr,
    /// Readers must show a certificate of its authority; plain text without.
    pub tls: Option<Arc<Identity>>,
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
