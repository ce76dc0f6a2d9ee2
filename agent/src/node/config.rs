//! Configuration of the agent.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{engine::ScrapeOptions, gpu::MonitorOptions, kernel, publish::MetricsOptions};
use forebay_resources::ResourceSource;
use forebay_service::tls::Identity;

/// Configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
    /// Source of InferencePools and Pods.
    pub resources: ResourceSource,
    /// Address of the telemetry service.
    pub grpc_listen: SocketAddr,
    /// Certificate of the telemetry service; readers must have one of the same authority. Plain text without.
    pub tls: Option<Arc<Identity>>,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub http_listen: SocketAddr,
    /// Which optional metrics `/metrics` has.
    pub metrics: MetricsOptions,
    /// Whether requests are counted in the kernel.
    pub kernel: KernelMode,
    /// The cgroup2 hierarchy; found in the mount table if absent.
    pub cgroup_root: Option<PathBuf>,
    /// The host's `/proc`.
    pub proc: PathBuf,
    /// Sampling of GPUs.
    pub gpus: MonitorOptions,
    /// Scraping of engines.
    pub scrape: ScrapeOptions,
}

/// Whether requests are counted in the kernel.
#[derive(Clone, Debug)]
pub enum KernelMode {
    /// If the machine allows it.
    Auto(kernel::Options),
    /// Never.
    Off,
}
