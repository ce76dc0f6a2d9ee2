use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::pick::{PickerLimits, PickerTlsFlags, ResponseBodies};
use crate::status::{PortRange, WriterOptions};
use forebay_epp::{AgentTlsFlags, DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, PickerOptions};
use forebay_resources::ResourceSource;
use forebay_service::tls;

/// Everything the gateway is told at its start; all else comes from the resources.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "forebay-gateway", version, about)]
pub struct Config {
    /// Folder with the Kubernetes manifests to serve instead of a cluster's; reloaded when it changes.
    #[arg(long, env = "FOREBAY_RESOURCES", value_name = "DIR", conflicts_with = "kubeconfig")]
    pub resources: Option<PathBuf>,

    /// How to reach the cluster [default: KUBECONFIG, the pod's service account, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Gateways of this class are served.
    #[arg(long, env = "FOREBAY_GATEWAY_CLASS", default_value = "forebay", value_name = "NAME")]
    pub gateway_class: String,

    /// Threads that serve clients [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<NonZeroUsize>,

    /// Address the Gateways' ports are opened on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,

    /// Metrics and health.
    #[arg(long, default_value = "0.0.0.0:9100", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Most bytes of one request body held while a pod is chosen.
    #[arg(long, default_value_t = 128 << 20, value_name = "BYTES")]
    pub hold_request_bytes: u64,

    /// Most bytes of all request bodies held at one time.
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    pub hold_total_bytes: u64,

    /// Largest request body that is kept, while it is sent on as it comes, to be sent again when its connection breaks.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    pub replay_bytes: u64,

    /// Longest wait for the next bytes of a request body, seconds.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub client_body_timeout: Duration,

    /// Longest wait for the endpoint picker once it has all it needs, seconds.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub picker_timeout: Duration,

    /// Whether response bodies take the way over endpoint pickers that do not say that they want none of them.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub epp_response_body: ResponseBodies,

    /// Writes a line of JSON for each finished request to standard output.
    #[arg(long)]
    pub access_log: bool,

    /// OpenTelemetry collector that gets a span for each request, over gRPC [example: http://collector:4317]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Share of the requests that get one, 0 to 1, where the client's traceparent has not decided.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_name = "RATIO", value_parser = ratio)]
    pub trace_ratio: f64,

    #[command(flatten)]
    pub picker_tls: PickerTlsFlags,

    /// Longest wait for a connection to a model server, seconds.
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub connect_timeout: Duration,

    /// Longest wait for the head of a model server's response, seconds. Generous: prefill may queue.
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub first_byte_timeout: Duration,

    /// Longest silence of a model server inside a stream of events, seconds.
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub stream_idle_timeout: Duration,

    /// How long an unused connection to a model server is kept, seconds. Below the 5 s
    /// after which uvicorn, vLLM's server, closes it from its side.
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    pub upstream_idle_timeout: Duration,

    /// How long new connections are still taken after SIGTERM, seconds: others need a while to hear that this
    /// gateway is not ready any more. Meanwhile clients are asked to close theirs.
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds_or_none)]
    pub drain_delay: Duration,

    /// How long running requests may take to finish after SIGTERM, or after their listener was removed, seconds.
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub drain_timeout: Duration,

    /// Namespace of the node agents' pods; any without it.
    #[arg(long, env = "AGENT_NAMESPACE", value_name = "NAME")]
    pub agent_namespace: Option<String>,

    /// Labels of the node agents' pods; pools without an endpointPickerRef are picked by their reports.
    #[arg(long, default_value = DEFAULT_AGENT_SELECTOR, value_name = "NAME=VALUE,…", value_parser = selector)]
    pub agent_selector: String,

    /// Port of the node agents' telemetry.
    #[arg(long, default_value_t = DEFAULT_AGENT_PORT, value_name = "PORT")]
    pub agent_port: u16,

    #[command(flatten)]
    pub agent_tls: AgentTlsFlags,

    /// Namespace of the gateway's pods: its Lease and the Gateways' Services are there. Without it nothing is
    /// written into the cluster.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,

    /// Name of this pod, by which it holds the Lease.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Labels of the gateway's pods: the Gateways' Services select them.
    #[arg(long, default_value = "app.kubernetes.io/name=forebay-gateway", value_name = "NAME=VALUE,…", value_parser = selector)]
    pub service_selector: String,

    /// Type of the Gateways' Services.
    #[arg(long, default_value = "ClusterIP", value_parser = ["ClusterIP", "NodePort", "LoadBalancer"])]
    pub service_type: String,

    /// Ports of this pod that are given out to the Gateways' ports.
    #[arg(long, default_value = "10000-10999", value_name = "FIRST-LAST")]
    pub(crate) container_ports: PortRange,

    /// Opens another port than the Gateway's listener names: `8080=18080`, or `8080=0` for any free one.
    #[arg(long = "map-port", value_name = "LISTENER=PORT", value_parser = port_pair)]
    pub map_ports: Vec<(u16, u16)>,
}

impl Config {
    /// The defaults of the command line, for embedding.
    pub fn new(resources: impl Into<PathBuf>) -> Self {
        use clap::Parser as _;
        let mut config = Self::parse_from(["forebay-gateway", "--resources", "."]);
        config.resources = Some(resources.into());
        config
    }

    pub(crate) fn source(&self) -> ResourceSource {
        ResourceSource::from_flags(self.resources.clone(), self.kubeconfig.clone())
    }

    pub(crate) fn writer_options(&self, namespace: String) -> WriterOptions {
        let labels = self.service_selector.split(',').filter_map(|pair| pair.split_once('='));
        WriterOptions {
            namespace,
            identity: self.pod_name.clone().unwrap_or_else(|| format!("process-{}", std::process::id())),
            selector: labels.map(|(name, value)| (name.trim().into(), value.trim().into())).collect(),
            service_type: self.service_type.clone(),
            ports: self.container_ports,
        }
    }

    pub(crate) fn picker_limits(&self) -> PickerLimits {
        PickerLimits { picker_timeout: self.picker_timeout, response_bodies: self.epp_response_body }
    }

    pub(crate) fn picker_options(&self) -> Result<PickerOptions, tls::Error> {
        Ok(PickerOptions {
            agent_selector: self.agent_selector.clone(),
            agent_namespace: self.agent_namespace.clone(),
            agent_port: self.agent_port,
            agent_tls: self.agent_tls.load()?,
            ..PickerOptions::default()
        })
    }

    pub(crate) fn port_map(&self) -> HashMap<u16, u16> {
        self.map_ports.iter().copied().collect()
    }
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("not a number from 0 to 1".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a number of seconds above 0 is needed".to_owned())
}

fn selector(text: &str) -> Result<String, String> {
    let options = PickerOptions { agent_selector: text.to_owned(), ..PickerOptions::default() };
    options.check().map_err(|error| error.to_string())?;
    Ok(options.agent_selector)
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    text.split_once('=')
        .and_then(|(listener, port)| Some((listener.parse().ok()?, port.parse().ok()?)))
        .ok_or_else(|| "LISTENER=PORT with two port numbers is needed, as in 8080=18080".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
        assert_eq!(Config::new("/etc/forebay").picker_timeout, Duration::from_secs(5));
    }

    #[test]
    fn ports_and_seconds_are_checked() {
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
