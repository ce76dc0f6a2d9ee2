use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use forebay_gateway::{Config, Gateway};
use tempfile::TempDir;

use super::client::{connect, get, post};
use super::until;
use super::upstream::{Connection, Upstream};

/// The port of the test Gateway's listener. The gateway opens a free port instead.
pub const LISTENER: u16 = 8080;
pub const TRUSTED: u16 = LISTENER + 1;
pub const QWEN: &str = "Qwen/Qwen3-0.6B";
pub const TINY: &str = "TinyLlama/TinyLlama-1.1B-Chat-v1.0";

/// Manifests for one Gateway and its pools.
pub struct Harness {
    pub manifests: String,
}

/// A running gateway and its manifest folder.
pub struct Running {
    pub gateway: Gateway,
    folder: TempDir,
}

impl Harness {
    /// The Gateway of the guide, without a policy: every model name is its own base model.
    pub fn new() -> Self {
        Self { manifests: gateway(&[("http", LISTENER)]) }
    }

    /// A pool whose endpoints are `ports` on 127.0.0.1, with the HTTPRoute that the guide's chart makes for `model`.
    /// `picker`: port and failure mode.
    pub fn pool(mut self, name: &str, model: &str, ports: &[u16], picker: Option<(u16, &str)>) -> Self {
        let target_ports: String = ports.iter().map(|port| format!("\n  - number: {port}")).collect();
        write!(
            self.manifests,
            r#"
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}, namespace: llm-d}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  targetPorts:{target_ports}
"#
        )
        .unwrap();
        if let Some((port, failure_mode)) = picker {
            write!(
                self.manifests,
                r#"  endpointPickerRef: {{name: {name}-epp, port: {{number: 9002}}, failureMode: {failure_mode}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}-epp, namespace: llm-d}}
spec: {{ports: [{{name: grpc, port: 9002}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-epp, namespace: llm-d, labels: {{kubernetes.io/service-name: {name}-epp}}}}
addressType: IPv4
ports: [{{name: grpc, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"#
            )
            .unwrap();
        }
        write!(
            self.manifests,
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-0, namespace: llm-d, labels: {{app: {name}}}}}
status: {{podIP: 127.0.0.1, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: llm-d}}
spec:
  parentRefs: [{{name: inference-gateway, namespace: agentgateway-system}}]
  rules:
  - matches:
    - path: {{type: PathPrefix, value: /}}
      headers: [{{type: Exact, name: X-Gateway-Base-Model-Name, value: "{model}"}}]
    backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: {name}}}]
"#
        )
        .unwrap();
        self
    }

    /// An InferenceModelRewrite of a pool, with these rules in YAML flow style.
    pub fn rewrite(self, pool: &str, rules: &str) -> Self {
        self.with(&format!(
            r#"
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {{name: {pool}, namespace: llm-d}}
spec: {{poolRef: {{name: {pool}}}, rules: [{rules}]}}
"#
        ))
    }

    /// A second listener, on the next port, whose clients are trusted.
    pub fn with_trusted_listener(mut self) -> Self {
        let both = gateway(&[("http", LISTENER), ("mesh", TRUSTED)]).replace(
            "namespace: agentgateway-system}",
            "namespace: agentgateway-system, annotations: {forebay.dev/trusted-listeners: mesh}}",
        );
        self.manifests = self.manifests.replace(&gateway(&[("http", LISTENER)]), &both);
        self
    }

    /// A Service whose only endpoint is `port` on 127.0.0.1. `app_protocol` of its port 80 may be empty.
    pub fn service(self, name: &str, port: u16, app_protocol: &str) -> Self {
        let app_protocol =
            if app_protocol.is_empty() { String::new() } else { format!(", appProtocol: {app_protocol}") };
        self.with(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: llm-d}}
spec: {{ports: [{{name: web, port: 80{app_protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: llm-d, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: web, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"#
        ))
    }

    /// An HTTPRoute with these rules in YAML flow style.
    pub fn route(self, name: &str, rules: &str) -> Self {
        self.with(&format!(
            r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: llm-d}}
spec:
  parentRefs: [{{name: inference-gateway, namespace: agentgateway-system}}]
  rules: [{rules}]
"#
        ))
    }

    /// The policy of the guide for `entries` of a CEL map.
    pub fn policy(self, entries: &[(&str, &str)]) -> Self {
        let map: Vec<String> = entries.iter().map(|(name, base)| format!("{name:?}: {base:?}")).collect();
        let map = map.join(",\n            ");
        self.with(&format!(
            r#"
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: bbr, namespace: agentgateway-system}}
spec:
  targetRefs:
  - {{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}}
  traffic:
    phase: PreRouting
    transformation:
      request:
        set:
        - name: X-Gateway-Base-Model-Name
          value: |
            {{
            {map}
            }}[json(request.body).model]
"#
        ))
    }

    /// Adds a document.
    pub fn with(mut self, manifest: &str) -> Self {
        write!(self.manifests, "\n---\n{}\n", manifest.trim_matches('\n')).unwrap();
        self
    }

    pub async fn start(self) -> Running {
        self.start_with(|_| {}).await
    }

    pub async fn start_with(self, configure: impl FnOnce(&mut Config)) -> Running {
        let folder = tempfile::tempdir().unwrap();
        write_manifests(folder.path(), &self.manifests);
        let mut config = Config::new(folder.path());
        config.bind_address = "127.0.0.1".parse().unwrap();
        config.admin_listen = "127.0.0.1:0".parse().unwrap();
        config.map_ports = vec![(LISTENER, 0), (LISTENER + 1, 0)];
        configure(&mut config);
        let gateway = Gateway::start(config).await.unwrap();
        Running { gateway, folder }
    }
}

pub fn gateway(listeners: &[(&str, u16)]) -> String {
    let listeners: String = listeners
        .iter()
        .map(|(name, port)| {
            format!("\n  - {{name: {name}, protocol: HTTP, port: {port}, allowedRoutes: {{namespaces: {{from: All}}}}}}")
        })
        .collect();
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: inference-gateway, namespace: agentgateway-system}}
spec:
  gatewayClassName: forebay
  listeners:{listeners}
"#
    )
}

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.gateway.addresses()[&LISTENER]
    }

    pub fn trusted_address(&self) -> SocketAddr {
        self.gateway.addresses()[&TRUSTED]
    }

    /// Sends a POST with this body up to the endpoint: returns the client and the endpoint
    /// connection, from which the request was read.
    pub async fn forwarded(&self, body: &str, upstream: &Upstream) -> (Connection, Connection) {
        let mut client = connect(self.address()).await;
        client.write(post(body)).await;
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        (client, pod)
    }

    /// Writes other manifests without waiting for the gateway.
    pub fn write(&self, manifests: &str) {
        write_manifests(self.folder.path(), manifests);
    }

    /// Writes other manifests and waits until `is_so`.
    pub async fn rewrite(&mut self, manifests: &str, is_so: impl Fn(&Gateway) -> bool) {
        self.write(manifests);
        super::within("the gateway to follow its manifests", async {
            while !is_so(&self.gateway) {
                self.gateway.changed().await;
            }
        })
        .await;
    }

    /// The value of a metric with exactly this name and labels. 0 if it does not exist.
    pub async fn metric(&self, name_and_labels: &str) -> f64 {
        let metrics = get(self.gateway.admin_address(), "/metrics").await;
        metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    pub async fn until_metric(&self, name_and_labels: &str, wanted: f64) {
        until(name_and_labels, || async { (self.metric(name_and_labels).await == wanted).then_some(()) })
            .await;
    }
}

/// Replaced atomically, like a mounted ConfigMap.
fn write_manifests(folder: &Path, manifests: &str) {
    let staged = folder.join(".staged");
    std::fs::write(&staged, manifests).unwrap();
    std::fs::rename(staged, folder.join("manifests.yaml")).unwrap();
}
