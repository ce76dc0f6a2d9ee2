//! forebay-agent, the node daemon.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use forebay_agent::{
    engine::ScrapeOptions,
    gpu::{MonitorOptions, default_paths},
    kernel::{self, KeepPins},
    node::{self, Config, KernelMode, Owner},
};
use forebay_resources::ResourceSource;
use forebay_service::log;
use forebay_service::tls::{self, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Measures the inference pods of one node: requests in the kernel, GPUs through
/// NVML, the engines' own metrics; and streams all of it to whoever watches.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The node whose pods are watched (`spec.nodeName`).
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Folder of Kubernetes manifests, InferencePools and Pods, instead of a cluster.
    #[arg(long, env = "FOREBAY_RESOURCES", conflicts_with = "kubeconfig")]
    resources: Option<PathBuf>,
    /// How to reach the cluster [default: KUBECONFIG, the pod's service account, or ~/.kube/config]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Where `forebay.telemetry.v1` is served.
    #[arg(long, default_value = "0.0.0.0:9550")]
    grpc_listen: SocketAddr,
    /// Certificate for telemetry (PEM, signed for `forebay-agent`); read again when it changes.
    #[arg(long)]
    tls_cert: Option<PathBuf>,
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// Authority that the readers' certificates must be of.
    #[arg(long)]
    tls_client_ca: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:9551")]
    http_listen: SocketAddr,
    /// Whether to count requests in the kernel.
    #[arg(long, value_enum, default_value_t = KernelSwitch::Auto)]
    kernel: KernelSwitch,
    /// Folder on a bpffs to pin the maps in.
    #[arg(long, default_value = "/sys/fs/bpf/forebay")]
    bpffs: PathBuf,
    /// Leave the pins at the end, for the next agent to go on counting with.
    #[arg(long)]
    keep_pins: bool,
    /// Leave the pins as long as this DaemonSet exists; the pod that takes over goes on counting with them.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = ["keep_pins", "resources"])]
    keep_pins_while: Option<Owner>,
    /// The cgroup2 hierarchy, or the host's /sys/fs/cgroup [default: found in the mount table]
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// The host's /proc, to tell which pod a GPU process belongs to.
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
    /// NVML libraries to try instead of the usual places; may be repeated.
    #[arg(long)]
    nvml_library: Vec<PathBuf>,
    /// Milliseconds between two samples of the GPUs.
    #[arg(long, default_value = "250", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    gpu_interval_ms: u64,
    /// Milliseconds between two scrapes of an engine, and the time one may take.
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u64).range(50..=4_000))]
    scrape_interval_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KernelSwitch {
    Auto,
    Off,
}

/// Between two looks at an engine's served models.
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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let (owner, kubeconfig) = (args.keep_pins_while.clone(), args.kubeconfig.clone());
    let keep_pins = KeepPins::from(args.keep_pins);
    let config = args.config(keep_pins.clone())?;
    let mut agent = Box::pin(node::run(config, shutdown.clone()));
    tokio::select! {
        result = &mut agent => return Ok(result?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(owner) = owner {
        tokio::select! {
            result = &mut agent => return Ok(result?),
            stays = owner.stays(kubeconfig) => keep_pins.set(stays),
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
        let tls = Identity::from_flags(args.tls_cert, args.tls_key, args.tls_client_ca, flags)?;
        Ok(Config {
            node_name: args.node_name,
            resources: ResourceSource::from_flags(args.resources, args.kubeconfig),
            grpc_listen: args.grpc_listen,
            tls,
            http_listen: args.http_listen,
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
