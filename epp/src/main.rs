//! forebay-epp: the endpoint picker of one InferencePool, or of many.

#![forbid(unsafe_code)]

mod ecosystem_flags;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use forebay_epp::{
    AgentTlsFlags, DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, Error, PickerOptions, PoolScope, Server,
    ServerOptions,
    config::{self, Config, Policy},
    protocol::ObeyedHeaders,
    schedule::{self, Pipelines},
};
use forebay_resources::{ObjectKey, ResourceSource};
use forebay_service::tls::{self, Identity};
use forebay_service::{log, shutdown};

use ecosystem_flags::EcosystemFlags;

/// Endpoint picker of InferencePools, for gateways that speak the Endpoint Picker Protocol (Envoy ext_proc)
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Folder of Kubernetes manifests to use instead of a cluster. Reloaded on change
    #[arg(long, value_name = "DIR", env = "FOREBAY_RESOURCES", conflicts_with = "kubeconfig")]
    resources: Option<PathBuf>,
    /// Kubeconfig of the cluster [default: KUBECONFIG, the service account of the pod, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the InferencePool [default: default]. Without --pool-name: namespaces whose pools are all served [default:
    /// all namespaces]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', env = "POOL_NAMESPACE")]
    pool_namespace: Vec<String>,
    /// Name of the InferencePool. Without it, many pools are served: a gateway names the pool of a stream by the metadata
    /// `pool` (`NAMESPACE/NAME`) of `forebay.dev`, as Forebay's does, or its :authority is the Service that the
    /// endpointPickerRef of the pool names (`NAME.NAMESPACE.svc`)
    #[arg(long, value_name = "NAME", env = "POOL_NAME")]
    pool_name: Option<String>,
    /// Listen addresses of the ext_proc service. Pools whose endpointPickerRefs name the same Service are told apart by the port
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', default_value = "0.0.0.0:9002")]
    grpc_listen: Vec<SocketAddr>,
    /// Certificate of the ext_proc service (PEM, issued for `forebay-epp.NAMESPACE` of the namespaces of all pools). Reloaded on
    /// change
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates for client certificates of gateways. Without it, gateways need no certificate
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// DNS names of which a gateway's certificate must have one. `*` as last label matches any one label
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = tls::GATEWAY_NAME)]
    tls_client_name: Vec<tls::ClientName>,
    #[command(flatten)]
    agent_tls: AgentTlsFlags,
    /// Listen address of the gRPC health service
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9003")]
    health_listen: SocketAddr,
    /// Listen address of /metrics, /healthz, /readyz, /endpoints and /debug/picks. The last two list the pools if many are
    /// served; /endpoints?pool=NAMESPACE/NAME shows one
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
    /// For the conformance suite of the Gateway API Inference Extension only: clients choose endpoints with the header
    /// `test-epp-endpoint-selection`, and responses name the endpoint that served them
    #[arg(long)]
    conformance_headers: bool,
    /// Obey `Prefer: reserve-endpoint` of clients: respond with 204 and the address of the endpoint that would be picked, in
    /// the header `x-llm-d-reserved-host-port`, and send no request to it. Clients learn addresses of pods, so use it only
    /// where all clients are trusted. Forebay's gateway does not need it: it obeys the header on trusted listeners
    #[arg(long)]
    reserve_endpoint_header: bool,
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
    /// Time for requests in flight to finish after SIGTERM, in seconds. Other pickers' `30s` is accepted too
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = ecosystem_flags::seconds)]
    drain_timeout: Duration,
    #[command(flatten)]
    ecosystem: EcosystemFlags,
}

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Flags(#[from] ecosystem_flags::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Server(#[from] Error),
    #[error(
        "--pool-name {name} needs one --pool-namespace, not {count}; without --pool-name all pools of the namespaces are served"
    )]
    Namespaces { name: String, count: usize },
}

impl Flags {
    /// Other pickers' names for the same settings.
    fn apply_ecosystem_flags(&mut self) -> Result<(), ecosystem_flags::Error> {
        let given = &self.ecosystem;
        let grpc = self.grpc_listen.iter_mut().map(|listen| (listen, given.grpc_port));
        let others =
            [(&mut self.health_listen, given.grpc_health_port), (&mut self.http_listen, given.metrics_port)];
        for (listen, port) in grpc.chain(others) {
            listen.set_port(port.unwrap_or(listen.port()));
        }
        if let Some((certificate, key)) = given.certificate(self.tls_cert.is_some())? {
            (self.tls_cert, self.tls_key) = (Some(certificate), Some(key));
        }
        given.log_without_effect();
        Ok(())
    }

    /// The pools to serve.
    fn pools(&self) -> Result<PoolScope, Failure> {
        match (&self.pool_name, &self.pool_namespace[..]) {
            (Some(name), []) => Ok(ObjectKey::new("default", name).into()),
            (Some(name), [namespace]) => Ok(ObjectKey::new(namespace, name).into()),
            (Some(name), several) => Err(Failure::Namespaces { name: name.clone(), count: several.len() }),
            (None, []) => Ok(PoolScope::All),
            (None, namespaces) => Ok(PoolScope::Namespaces(namespaces.iter().cloned().collect())),
        }
    }

    /// What decides picks. Logs what of the configuration has no effect.
    fn pipelines(&self) -> Result<Pipelines, config::Error> {
        let options = config::Options { allows_experimental: self.allow_experimental_plugins };
        let config = match (&self.config_file, &self.config_text) {
            (Some(file), _) => Config::read(file, options)?,
            (None, Some(text)) => Config::parse(text, options)?,
            (None, None) => self.policy.config()?,
        };
        for notice in &config.notices {
            tracing::info!("configuration: {notice}");
        }
        Ok(config.into_pipelines())
    }
}

impl TryFrom<Flags> for ServerOptions {
    type Error = Failure;

    fn try_from(mut flags: Flags) -> Result<Self, Failure> {
        flags.apply_ecosystem_flags()?;
        let pools = flags.pools()?;
        let pipelines = flags.pipelines()?;
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
            pools,
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
                pipelines,
            },
            max_message_bytes: flags.grpc_max_recv_msg_size,
            max_streams: flags.max_streams,
            obeyed: ObeyedHeaders {
                conformance_test: flags.conformance_headers,
                reserve_endpoint: flags.reserve_endpoint_header,
            },
            drain_timeout: flags.drain_timeout,
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
    let pools = options.pools.clone();
    let server = Server::start(options).await?;
    let ext_proc: Vec<String> = server.grpc_addresses.iter().map(ToString::to_string).collect();
    tracing::info!(%pools, ext_proc = ext_proc.join(","), health = %server.health_address, http = %server.http_address, "picking");
    signalled.cancelled().await;
    server.shutdown().await;
    Ok(())
}

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn starts_with_the_flags_of_other_pickers() {
        let manifest = "forebay-epp --pool-name primary --pool-namespace models --zap-encoder json --grpc-port 9102 \
                        --grpc-health-port 9103 --metrics-port 9190 --drain-timeout 30s -v 4 --secure-serving=false \
                        --ha-enable-leader-election --pool-group inference.networking.k8s.io";
        let flags = Flags::try_parse_from(manifest.split_whitespace()).unwrap();
        let options = ServerOptions::try_from(flags).unwrap();
        assert_eq!(options.pools, ObjectKey::new("models", "primary").into());
        let ports = [options.grpc_listen[0], options.health_listen, options.http_listen].map(|it| it.port());
        assert_eq!((ports, options.drain_timeout), ([9102, 9103, 9190], Duration::from_secs(30)));

        let both = ["forebay-epp", "--pool-name=a", "--grpc-port=1", "--grpc-listen=0.0.0.0:2"];
        let error = Flags::try_parse_from(both).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn serves_one_pool_or_those_of_namespaces_or_all() {
        let scope = |flags: &[&str]| {
            let flags = Flags::try_parse_from(std::iter::once(&"forebay-epp").chain(flags)).unwrap();
            flags.pools().map(|scope| scope.to_string()).map_err(|error| error.to_string())
        };
        for (flags, expected) in [
            (&["--pool-name=a"][..], "InferencePool default/a"),
            (&["--pool-name=a", "--pool-namespace=n"], "InferencePool n/a"),
            (&["--pool-namespace=n"], "the InferencePools of namespace n"),
            (&["--pool-namespace=n,m", "--pool-namespace=o"], "the InferencePools of namespaces m, n, o"),
            (&[], "the InferencePools of all namespaces"),
        ] {
            assert_eq!(scope(flags).unwrap(), expected);
        }
        let error = scope(&["--pool-name=a", "--pool-namespace=n,m"]).unwrap_err();
        assert!(error.starts_with("--pool-name a needs one --pool-namespace, not 2"), "{error}");
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
        let error = parse(&["--config-text=a: b"]).unwrap().pipelines().unwrap_err().to_string();
        let expected =
            "the configuration is invalid: a: unknown field `a`, expected one of `apiVersion`, `kind`";
        assert!(error.starts_with(expected), "{error}");
    }
}
