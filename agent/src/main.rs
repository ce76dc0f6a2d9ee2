//! forebay-agent, the node agent.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use forebay_agent::{
    engine::ScrapeOptions,
    gpu::{MonitorOptions, default_paths},
    kernel::{self, KeepPins},
    node::{self, Config, KernelMode, Owner},
    publish::MetricsOptions,
};
use forebay_resources::ResourceSource;
use forebay_service::{
    log, shutdown,
    tls::{self, Identity},
};
use tokio_util::sync::CancellationToken;

/// Forebay's node agent.
///
/// Measures the inference pods of one node: counts requests in the kernel, samples GPUs through NVML, and scrapes the
/// engines' metrics. Streams the results to endpoint pickers and the forebay CLI.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Node whose pods are watched (`spec.nodeName`).
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Folder of Kubernetes manifests (InferencePools and Pods) to read instead of a cluster.
    #[arg(long, env = "FOREBAY_RESOURCES", conflicts_with = "kubeconfig")]
    resources: Option<PathBuf>,
    /// Kubeconfig file [default: KUBECONFIG, the pod's service account, or ~/.kube/config]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Address of the telemetry service (gRPC, forebay.telemetry.v1).
    #[arg(long, default_value = "0.0.0.0:9550")]
    grpc_listen: SocketAddr,
    /// Certificate of the telemetry service (PEM, DNS name forebay-agent). Reloaded when it changes.
    #[arg(long)]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// CA of the clients' certificates (PEM). If set, clients need a certificate of this CA with a name of
    /// --tls-client-name.
    #[arg(long)]
    tls_client_ca: Option<PathBuf>,
    /// DNS names of which a client's certificate must have one. `*` as last label matches any one label.
    #[arg(long, value_delimiter = ',', default_value = "forebay-gateway,forebay-cli,forebay-epp.*")]
    tls_client_name: Vec<tls::ClientName>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:9551")]
    http_listen: SocketAddr,
    /// Export the GPUs also under the names of NVIDIA's dcgm-exporter (DCGM_FI_DEV_GPU_UTIL and others). Only for nodes
    /// without a dcgm-exporter: sums over both would count each GPU twice.
    #[arg(long)]
    dcgm_metrics: bool,
    /// Whether to count requests in the kernel: `auto` if the machine supports it.
    #[arg(long, value_enum, default_value_t = KernelSwitch::Auto)]
    kernel: KernelSwitch,
    /// Folder on a bpffs in which BPF maps and links are pinned.
    #[arg(long, default_value = "/sys/fs/bpf/forebay")]
    bpffs: PathBuf,
    /// Keep the pins at shutdown, so that counting continues and the next agent adopts the counters.
    #[arg(long)]
    keep_pins: bool,
    /// Keep the pins at shutdown if this DaemonSet still exists.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = ["keep_pins", "resources"])]
    keep_pins_while: Option<Owner>,
    /// The cgroup2 hierarchy, or the host's /sys/fs/cgroup [default: the first cgroup2 mount]
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// The host's /proc, to find the pods of GPU processes.
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
    /// NVML library to load instead of the usual paths. Can be repeated; the first one found is used.
    #[arg(long)]
    nvml_library: Vec<PathBuf>,
    /// Interval of GPU samples, in milliseconds.
    #[arg(long, default_value = "250", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    gpu_interval_ms: u64,
    /// Interval of engine scrapes and timeout of one, in milliseconds.
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u64).range(50..=4_000))]
    scrape_interval_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KernelSwitch {
    Auto,
    Off,
}

/// Interval of requests for the models that an engine serves.
const MODELS_INTERVAL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    log::to_stderr();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let signalled = shutdown::on_signal()?;
    let shutdown = CancellationToken::new();
    let (owner, kubeconfig) = (args.keep_pins_while.clone(), args.kubeconfig.clone());
    let keep_pins = KeepPins::from(args.keep_pins);
    let config = args.config(keep_pins.clone())?;
    let mut agent = Box::pin(node::run(config, shutdown.clone()));
    tokio::select! {
        result = &mut agent => return Ok(result?),
        () = signalled.cancelled() => {}
    }
    if let Some(owner) = owner {
        tokio::select! {
            result = &mut agent => return Ok(result?),
            exists = owner.exists(kubeconfig) => keep_pins.set(exists),
        }
    }
    shutdown.cancel();
    Ok(agent.await?)
}

impl Args {
    fn config(self, keep_pins: KeepPins) -> Result<Config, tls::Error> {
        let args = self;
        let libraries = if args.nvml_library.is_empty() { default_paths() } else { args.nvml_library };
        let flags = "--tls-cert, --tls-key and --tls-client-ca";
        let tls = Identity::from_flags(
            args.tls_cert,
            args.tls_key,
            args.tls_client_ca,
            &args.tls_client_name,
            flags,
        )?;
        Ok(Config {
            node_name: args.node_name,
            resources: ResourceSource::from_flags(args.resources, args.kubeconfig),
            grpc_listen: args.grpc_listen,
            tls,
            http_listen: args.http_listen,
            metrics: MetricsOptions { dcgm: args.dcgm_metrics },
            kernel: match args.kernel {
                KernelSwitch::Off => KernelMode::Off,
                KernelSwitch::Auto => KernelMode::Auto(kernel::Options { pin_root: args.bpffs, keep_pins }),
            },
            cgroup_root: args.cgroup_root,
            proc: args.proc,
            gpus: MonitorOptions { libraries, interval: Duration::from_millis(args.gpu_interval_ms) },
            scrape: ScrapeOptions {
                interval: Duration::from_millis(args.scrape_interval_ms),
                models_interval: MODELS_INTERVAL,
            },
        })
    }
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Args::command().debug_assert();
    }
}
