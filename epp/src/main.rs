//! forebay-epp: the endpoint picker of one InferencePool.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use forebay_epp::{
    AgentTlsFlags, DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, Error, PickerOptions, Server, ServerOptions,
    config::{self, Config, Policy},
    schedule::{self, Pipeline},
};
use forebay_resources::{ObjectKey, ResourceSource};
use forebay_service::tls::{self, Identity};
use forebay_service::{log, shutdown};

/// Endpoint picker of one InferencePool, for gateways that speak the Endpoint Picker Protocol (Envoy ext_proc)
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Folder of Kubernetes manifests to use instead of a cluster. Reloaded on change
    #[arg(long, value_name = "DIR", env = "FOREBAY_RESOURCES", conflicts_with = "kubeconfig")]
    resources: Option<PathBuf>,
    /// Kubeconfig of the cluster [default: KUBECONFIG, the service account of the pod, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the InferencePool
    #[arg(long, default_value = "default", env = "POOL_NAMESPACE")]
    pool_namespace: String,
    /// Name of the InferencePool
    #[arg(long, env = "POOL_NAME")]
    pool_name: String,
    /// Listen address of the ext_proc service
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9002")]
    grpc_listen: SocketAddr,
    /// Certificate of the ext_proc service (PEM, issued for `forebay-epp.NAMESPACE`, the pool's namespace). Reloaded on change
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates for client certificates of gateways. Without it, gateways need no certificate
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// DNS names of which a gateway's certificate must have one. `*` as last label stands for any one label
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = tls::GATEWAY_NAME)]
    tls_client_name: Vec<tls::ClientName>,
    #[command(flatten)]
    agent_tls: AgentTlsFlags,
    /// Listen address of the gRPC health service
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9003")]
    health_listen: SocketAddr,
    /// Listen address of /metrics, /healthz, /readyz and /endpoints
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    http_listen: SocketAddr,
    /// Namespace of the agents' pods. Without it, all namespaces are watched, which needs a ClusterRole
    #[arg(long, value_name = "NAME", env = "AGENT_NAMESPACE")]
    agent_namespace: Option<String>,
    /// Labels of the agents' pods
    #[arg(long, value_name = "NAME=VALUE,…", default_value = DEFAULT_AGENT_SELECTOR)]
    agent_selector: String,
    /// Port of the agents' telemetry service
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_AGENT_PORT)]
    agent_port: u16,
    /// Maximum time between two frames of a healthy agent, in milliseconds. Its data is stale after three times this
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(50..=60_000))]
    agent_heartbeat_ms: u32,
    /// What decides picks, by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    policy: Policy,
    /// What decides picks: a file with an EndpointPickerConfig of llm-d or of the Gateway API Inference Extension, in YAML or
    /// JSON. Read once
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    config_file: Option<PathBuf>,
    /// The text of an EndpointPickerConfig instead of a file
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["policy", "config_file"])]
    config_text: Option<String>,
    /// Accept experimental plugins in the configuration: header-based-testing-filter
    #[arg(long)]
    allow_experimental_plugins: bool,
    /// Maximum endpoints of a decision for gateways that accept a list (Forebay's does): the best one and fallbacks. Other gateways get one endpoint
    #[arg(long, value_name = "COUNT", default_value_t = schedule::MAX_ENDPOINTS_PER_PICK as u8,
          value_parser = clap::value_parser!(u8).range(1..=schedule::MAX_ENDPOINTS_PER_PICK as i64))]
    endpoints_per_pick: u8,
    /// Maximum size of a message from a gateway, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    grpc_max_recv_msg_size: usize,
    /// Maximum concurrent requests of all gateways
    #[arg(long, value_name = "COUNT", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    max_streams: u32,
    /// Time for requests in flight to finish after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    drain_timeout: u64,
}

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Server(#[from] Error),
}

impl Flags {
    /// What decides picks. Logs what of the configuration has no effect.
    fn pipeline(&self) -> Result<Arc<Pipeline>, config::Error> {
        let options = config::Options { allows_experimental: self.allow_experimental_plugins };
        let config = match (&self.config_file, &self.config_text) {
            (Some(file), _) => Config::read(file, options)?,
            (None, Some(text)) => Config::parse(text, options)?,
            (None, None) => self.policy.config()?,
        };
        for notice in &config.notices {
            tracing::info!("configuration: {notice}");
        }
        Ok(Arc::new(config.pipeline))
    }
}

impl TryFrom<Flags> for ServerOptions {
    type Error = Failure;

    fn try_from(flags: Flags) -> Result<Self, Failure> {
        let pipeline = flags.pipeline()?;
        let flag_names = "--tls-cert and --tls-key (and --tls-client-ca)";
        let tls = Identity::from_flags(
            flags.tls_cert,
            flags.tls_key,
            flags.tls_client_ca,
            &flags.tls_client_name,
            flag_names,
        )
        .map_err(Error::from)?;
        Ok(Self {
            resources: ResourceSource::from_flags(flags.resources, flags.kubeconfig),
            pool: ObjectKey::new(flags.pool_namespace, flags.pool_name),
            grpc_listen: flags.grpc_listen,
            tls,
            health_listen: flags.health_listen,
            http_listen: flags.http_listen,
            picker: PickerOptions {
                agent_selector: flags.agent_selector,
                agent_namespace: flags.agent_namespace,
                agent_port: flags.agent_port,
                agent_heartbeat: Duration::from_millis(flags.agent_heartbeat_ms.into()),
                agent_tls: flags.agent_tls.load().map_err(Error::from)?,
                endpoints_per_pick: flags.endpoints_per_pick.into(),
                pipeline,
            },
            max_message_bytes: flags.grpc_max_recv_msg_size,
            max_streams: flags.max_streams,
            drain_timeout: Duration::from_secs(flags.drain_timeout),
        })
    }
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    log::to_stderr();
    let result = match ServerOptions::try_from(flags) {
        Ok(options) => run(options).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: ServerOptions) -> Result<(), Failure> {
    let signalled = shutdown::on_signal().map_err(Error::Signals)?;
    let pool = options.pool.clone();
    let server = Server::start(options).await?;
    tracing::info!(%pool, ext_proc = %server.grpc_address, health = %server.health_address, http = %server.http_address, "picking");
    signalled.cancelled().await;
    server.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn one_flag_decides_what_picks() {
        let parse = |flags: &[&str]| {
            let required = ["forebay-epp", "--pool-name=pool"];
            Flags::try_parse_from(required.iter().chain(flags)).map_err(|error| error.kind())
        };
        let (file, text, policy) = ("--config-file=plugins.yaml", "--config-text={}", "--policy=lmetric");
        for flag in [file, text, policy] {
            assert!(parse(&[flag]).is_ok(), "{flag}");
        }
        for flags in [[file, text], [file, policy], [text, policy]] {
            assert_eq!(parse(&flags).unwrap_err(), clap::error::ErrorKind::ArgumentConflict, "{flags:?}");
        }
        let error = parse(&["--config-text=a: b"]).unwrap().pipeline().unwrap_err().to_string();
        let expected =
            "the configuration is invalid: a: unknown field `a`, expected one of `apiVersion`, `kind`";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn reference_is_up_to_date() {
        let text = format!(
            "# forebay-epp\n\nGenerated by `UPDATE_REFERENCE=1 cargo test --workspace reference`.\n\n{}{}",
            forebay_reference::flags(Flags::command()),
            forebay_reference::metrics(&forebay_epp::Metrics::new().text().unwrap()),
        );
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
        forebay_reference::check(&file, &text);
    }
}
