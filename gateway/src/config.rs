use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use forebay_epp::config::{self, Policy};
use forebay_epp::schedule::Pipelines;
use forebay_epp::{AgentTlsFlags, DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, PickerOptions};
use forebay_resources::ResourceSource;
use forebay_service::tls;

use crate::accept::{ConnectionOptions, MAX_CONNECTIONS};
use crate::limit::QuotaStoreOptions;
use crate::pick::{PickerLimits, PickerTlsFlags, ResponseBodies};
use crate::request::StreamUsage;
use crate::status::{PortRange, WriterOptions};

/// File descriptors for the admin endpoint, endpoint pickers, the API server and files.
const RESERVED_FILES: usize = 512;
/// Minimum limit of client connections.
const MIN_CONNECTIONS: usize = 32;

/// Why the pickers in process cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PickerOptionsError {
    /// The `--agent-tls` flags are invalid.
    #[error("cannot set up TLS for the agents: {0}")]
    AgentTls(#[from] tls::Error),
    /// The configuration of the picks is invalid.
    #[error("--in-process-config-file: {0}")]
    Picks(#[from] config::Error),
}

/// Command line options. Everything else comes from the resources.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "forebay-gateway", version, about)]
pub struct Config {
    /// Directory with Kubernetes manifests to serve instead of a cluster's resources. It is reloaded when it changes
    #[arg(long, env = "FOREBAY_RESOURCES", value_name = "DIR", conflicts_with = "kubeconfig")]
    pub resources: Option<PathBuf>,

    /// Kubeconfig file of the cluster [default: $KUBECONFIG, the service account of the pod, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of the GatewayClass whose Gateways are served
    #[arg(long, env = "FOREBAY_GATEWAY_CLASS", default_value = "forebay", value_name = "NAME")]
    pub gateway_class: String,

    /// Number of worker threads [default: number of cores]
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<NonZeroUsize>,

    /// Address on which the ports of the Gateways are opened
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,

    /// Address of /metrics, /config, /healthz and /readyz
    #[arg(long, default_value = "0.0.0.0:9100", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Maximum bytes of one request body that are held until an endpoint is chosen
    #[arg(long, default_value_t = 128 << 20, value_name = "BYTES")]
    pub hold_request_bytes: u64,

    /// Maximum bytes of all request bodies that are held at the same time (hold budget)
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    pub hold_total_bytes: u64,

    /// Maximum size of a request body that is kept while it is streamed, to send it again if the connection breaks
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    pub replay_bytes: u64,

    /// Maximum wait for the next bytes of a request body, in seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub client_body_timeout: Duration,

    /// Maximum time of a client connection without a request, in seconds. Keep it above the idle timeout of load balancers
    /// in front of the gateway, which otherwise may send a request on a connection that is being closed
    #[arg(long, default_value = "400", value_name = "SECONDS", value_parser = seconds)]
    pub client_idle_timeout: Duration,

    /// Maximum time from the first to the last byte of a request head, and from the start of a connection to its first
    /// bytes, in seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub client_head_timeout: Duration,

    /// Maximum time for which a client takes no data of a response, in seconds. After that an HTTP/2 stream is reset and an
    /// HTTP/1 connection is closed
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub client_write_timeout: Duration,

    /// Maximum client connections [default: half of the file descriptors that the limit of open files leaves, at most 65536]
    #[arg(long, value_name = "COUNT")]
    pub max_client_connections: Option<NonZeroUsize>,

    /// Maximum requests in flight. Further requests get 503 and the code `requests_exhausted`. A request that waits takes
    /// about 20 KiB
    #[arg(long, default_value = "32768", value_name = "COUNT")]
    pub max_requests: NonZeroUsize,

    /// Maximum time that a request waits for endpoint pickers, in seconds. A replica that does not reply within half of it
    /// is skipped
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub picker_timeout: Duration,

    /// Relay response bodies through endpoint pickers. With auto, pickers that skip response bodies do not get them
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub epp_response_body: ResponseBodies,

    /// Ask engines for the usage of streamed completions whose clients did not ask for it. The chunk with the usage is not
    /// sent to the client. With auto, if an access log or a usage database is written, or a rate limit counts tokens
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub stream_usage: StreamUsage,

    /// Write an access log to standard output: one JSON object per request
    #[arg(long)]
    pub access_log: bool,

    /// Database for the usage of each request: sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME. `forebay usage` sums it up.
    /// A database that is not reachable stops no request
    #[arg(long, env = "FOREBAY_USAGE_DB", hide_env_values = true, value_name = "URL")]
    pub usage_db: Option<String>,

    /// Days after which the usage of requests is deleted
    #[arg(long, default_value = "90", value_name = "DAYS")]
    pub usage_retention_days: NonZeroU32,

    /// Valkey or Redis in which gateways share what was used of quotas: redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss://
    /// for TLS. Use one database for each installation. Without it each gateway counts for itself
    #[arg(long, env = "FOREBAY_QUOTA_STORE", hide_env_values = true, value_name = "URL")]
    pub quota_store: Option<String>,

    /// File that keeps what was used of quotas over a restart, for a single gateway: one process can use it. A crash loses what
    /// was used in the last second
    #[arg(long, env = "FOREBAY_QUOTA_FILE", value_name = "FILE", conflicts_with = "quota_store")]
    pub quota_file: Option<PathBuf>,

    /// Time after which what a gateway has reserved of quotas comes back if it does not answer any more, in seconds
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub quota_lease: Duration,

    /// OTLP/gRPC endpoint of an OpenTelemetry collector. Each request is exported as a span [example: http://collector:4317]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Fraction of requests to trace, from 0 to 1, unless a client of a trusted listener has decided by its traceparent
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_name = "RATIO", value_parser = ratio)]
    pub trace_ratio: f64,

    /// TLS for connections to endpoint pickers
    #[command(flatten)]
    pub picker_tls: PickerTlsFlags,

    /// Maximum time to connect to an endpoint, in seconds
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub connect_timeout: Duration,

    /// Maximum wait for the response head of an endpoint, in seconds. Large by default, because engines queue requests
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub first_byte_timeout: Duration,

    /// Maximum time between events of a streamed response, in seconds
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub stream_idle_timeout: Duration,

    /// Time after which idle connections to endpoints are closed, in seconds. Keep it below the keep-alive timeout of
    /// the engine (5 s for uvicorn, the server of vLLM)
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    pub upstream_idle_timeout: Duration,

    /// Time to accept new connections after SIGTERM, in seconds. Load balancers need it to see that the gateway is not
    /// ready. Clients are asked to close their connections meanwhile
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds_or_zero)]
    pub drain_delay: Duration,

    /// Maximum time for requests in flight to finish after SIGTERM, or after their listener was removed, in seconds
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub drain_timeout: Duration,

    /// Namespace of the agent pods [default: all namespaces]
    #[arg(long, env = "AGENT_NAMESPACE", value_name = "NAME")]
    pub agent_namespace: Option<String>,

    /// Label selector of the agent pods, whose telemetry is used for pools without an endpointPickerRef
    #[arg(long, default_value = DEFAULT_AGENT_SELECTOR, value_name = "NAME=VALUE,…", value_parser = selector)]
    pub agent_selector: String,

    /// Telemetry port of the agents
    #[arg(long, default_value_t = DEFAULT_AGENT_PORT, value_name = "PORT")]
    pub agent_port: u16,

    /// TLS for connections to agents
    #[command(flatten)]
    pub agent_tls: AgentTlsFlags,

    /// What decides picks of pools without an endpointPickerRef, by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    pub in_process_policy: Policy,

    /// What decides picks of pools without an endpointPickerRef: a file with an EndpointPickerConfig of llm-d or of the
    /// Gateway API Inference Extension, in YAML or JSON. Read once
    #[arg(long, value_name = "FILE", conflicts_with = "in_process_policy")]
    pub in_process_config_file: Option<PathBuf>,

    /// Namespace of this pod, in which the Lease and the Services of Gateways are created. Without it, nothing is
    /// written to the cluster
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,

    /// Name of this pod, used as holder of the Lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Label selector of the gateway pods, used by the Services of Gateways
    #[arg(long, default_value = "app.kubernetes.io/name=forebay-gateway", value_name = "NAME=VALUE,…", value_parser = selector)]
    pub service_selector: String,

    /// Type of the Services of Gateways
    #[arg(long, default_value = "ClusterIP", value_parser = ["ClusterIP", "NodePort", "LoadBalancer"])]
    pub service_type: String,

    /// Range of container ports that are assigned to the ports of Gateways
    #[arg(long, default_value = "10000-10999", value_name = "FIRST-LAST")]
    pub(crate) container_ports: PortRange,

    /// Open another port instead of a listener's port: 8080=18080, or 8080=0 for any free port
    #[arg(long = "map-port", value_name = "LISTENER=PORT", value_parser = port_pair)]
    pub map_ports: Vec<(u16, u16)>,

    /// Do not merge wakes of client connections. Only for measuring their effect
    #[arg(long, hide = true)]
    pub(crate) no_coalescing_waker: bool,
}

impl Config {
    /// The default options, with manifests from `resources`. For embedding and tests.
    pub fn new(resources: impl Into<PathBuf>) -> Self {
        use clap::Parser as _;
        let mut config = Self::parse_from(["forebay-gateway", "--resources", "."]);
        config.resources = Some(resources.into());
        config
    }

    pub(crate) fn source(&self) -> ResourceSource {
        ResourceSource::from_flags(self.resources.clone(), self.kubeconfig.clone())
    }

    /// Name of this pod.
    pub(crate) fn identity(&self) -> String {
        self.pod_name.clone().unwrap_or_else(|| format!("process-{}", std::process::id()))
    }

    /// Labels of the gateway pods.
    pub(crate) fn pod_labels(&self) -> BTreeMap<String, String> {
        let labels = self.service_selector.split(',').filter_map(|pair| pair.split_once('='));
        labels.map(|(name, value)| (name.trim().into(), value.trim().into())).collect()
    }

    pub(crate) fn writer_options(&self, namespace: String) -> WriterOptions {
        WriterOptions {
            namespace,
            identity: self.identity(),
            selector: self.pod_labels(),
            service_type: self.service_type.clone(),
            ports: self.container_ports,
        }
    }

    pub(crate) fn connection_options(&self) -> ConnectionOptions {
        ConnectionOptions {
            idle_timeout: self.client_idle_timeout,
            head_timeout: self.client_head_timeout,
            write_timeout: self.client_write_timeout,
            drain_timeout: self.drain_timeout,
            coalesces_wakes: !self.no_coalescing_waker,
        }
    }

    /// `open_files`: the limit of open files. What client connections leave is for upstream connections.
    pub(crate) fn max_connections(&self, open_files: usize) -> usize {
        let limit = (open_files.saturating_sub(RESERVED_FILES) / 2).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        self.max_client_connections.map_or(limit, |max| max.get().min(limit))
    }

    /// The half of the file descriptors that client connections leave. Idle connections count too.
    pub(crate) fn max_upstream_connections(open_files: usize) -> usize {
        (open_files.saturating_sub(RESERVED_FILES) / 2).max(MIN_CONNECTIONS)
    }

    pub(crate) fn quota_store_options(&self) -> Option<QuotaStoreOptions> {
        let url = self.quota_store.clone()?;
        Some(QuotaStoreOptions { url, lease: self.quota_lease })
    }

    /// Maximum time in which a gateway that ends finishes its requests.
    pub(crate) fn drain_time(&self) -> Duration {
        self.drain_delay.saturating_add(self.drain_timeout)
    }

    pub(crate) fn usage_retention(&self) -> Duration {
        Duration::from_secs(u64::from(self.usage_retention_days.get()) * 86_400)
    }

    pub(crate) fn picker_limits(&self) -> PickerLimits {
        PickerLimits { picker_timeout: self.picker_timeout, response_bodies: self.epp_response_body }
    }

    pub(crate) fn picker_options(&self) -> Result<PickerOptions, PickerOptionsError> {
        Ok(PickerOptions {
            agent_selector: self.agent_selector.clone(),
            agent_namespace: self.agent_namespace.clone(),
            agent_port: self.agent_port,
            agent_tls: self.agent_tls.load()?,
            pipelines: self.pipelines()?,
            ..PickerOptions::default()
        })
    }

    /// What decides picks in process. Logs what of the configuration has no effect.
    fn pipelines(&self) -> Result<Pipelines, config::Error> {
        let config = match &self.in_process_config_file {
            Some(file) => config::Config::read(file, config::Options::default())?,
            None => self.in_process_policy.config()?,
        };
        for notice in &config.notices {
            tracing::info!("--in-process-config-file: {notice}");
        }
        Ok(config.into_pipelines())
    }

    pub(crate) fn port_map(&self) -> HashMap<u16, u16> {
        self.map_ports.iter().copied().collect()
    }
}

fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a number of seconds greater than 0".to_owned())
}

fn selector(text: &str) -> Result<String, String> {
    let options = PickerOptions { agent_selector: text.to_owned(), ..PickerOptions::default() };
    options.check().map_err(|error| error.to_string())?;
    Ok(options.agent_selector)
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    text.split_once('=')
        .and_then(|(listener, port)| Some((listener.parse().ok()?, port.parse().ok()?)))
        .ok_or_else(|| "expected LISTENER=PORT with two port numbers, for example 8080=18080".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        Config::command().debug_assert();
        assert_eq!(Config::new("/etc/forebay").picker_timeout, Duration::from_secs(5));
    }

    #[test]
    fn client_connections_leave_file_descriptors_for_upstream_connections() {
        let mut config = Config::new("/etc/forebay");
        for (open_files, connections) in
            [(usize::MAX, 65_536), (131_584, 65_536), (4096, 1792), (1024, 256), (256, 32)]
        {
            assert_eq!(config.max_connections(open_files), connections, "{open_files}");
        }
        config.max_client_connections = NonZeroUsize::new(100);
        assert_eq!((config.max_connections(4096), config.max_connections(256)), (100, 32));
    }

    #[test]
    fn one_flag_decides_the_picks_in_process() {
        let parse = |flags: &[&str]| {
            Config::try_parse_from(["forebay-gateway", "--resources", "."].iter().chain(flags))
        };
        let (policy, file) =
            ("--in-process-policy=least-request", "--in-process-config-file=/nowhere/p.yaml");
        assert!(!parse(&[policy]).unwrap().pipelines().unwrap().for_pool().needs().prompt);
        assert!(parse(&[]).unwrap().pipelines().unwrap().for_pool().needs().prompt);
        let error = parse(&[file]).unwrap().picker_options().unwrap_err().to_string();
        assert!(
            error.starts_with(
                "--in-process-config-file: cannot read the configuration /nowhere/p.yaml: No such file"
            ),
            "{error}"
        );
        let both = parse(&[policy, file]).unwrap_err();
        assert_eq!(both.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn validates_ports_and_seconds() {
        let parse = |flag: &str| Config::try_parse_from(["forebay-gateway", "--resources", ".", flag]);
        assert_eq!(parse("--map-port=8080=0").unwrap().port_map()[&8080], 0);
        assert!(parse("--map-port=8080").is_err());
        assert!(parse("--agent-selector=app=agent,tier=node").is_ok());
        assert!(parse("--agent-selector=agent").is_err());
        assert_eq!(parse("--drain-timeout=0.5").unwrap().drain_timeout, Duration::from_millis(500));
        for bad in ["0", "-1", "x", "inf"] {
            assert!(parse(&format!("--drain-timeout={bad}")).is_err(), "{bad}");
        }
    }
}
