//! Kubernetes manifests: those of the guide with the GatewayClass of Forebay, and the Pods and EndpointSlices that
//! controllers would create.

use std::{fs, net::IpAddr, path::Path};

use anyhow::Result;

use super::{HarnessOptions, NAMESPACE, NODE, Network, POD_PORT, Pod, PoolOptions};

const GATEWAY_NAMESPACE: &str = "forebay-system";

pub(super) fn write(folder: &Path, options: &HarnessOptions, network: Network, pods: &[Pod]) -> Result<()> {
    fs::write(folder.join("gateway.yaml"), gateway(options))?;
    for (index, pool) in options.pools.iter().enumerate() {
        let mut manifest = pool_manifest(pool, options.failure_mode);
        manifest += &if options.shared_picker {
            external_name(pool.name)
        } else {
            let picker = format!("{}-epp", pool.name);
            picker_service(NAMESPACE, &picker, network.epps(index, options.picker_replicas))
        };
        fs::write(folder.join(format!("{}.yaml", pool.name)), manifest)?;
    }
    if options.shared_picker {
        let mut manifest = reference_grant();
        let replicas = network.epps(0, options.picker_replicas);
        manifest += &picker_service(GATEWAY_NAMESPACE, SHARED_PICKER, replicas);
        fs::write(folder.join("shared-picker.yaml"), manifest)?;
    }
    let mut text = pod_manifest(
        GATEWAY_NAMESPACE,
        "forebay-agent-0",
        network.agent().ip(),
        "app.kubernetes.io/name: forebay-agent",
    );
    for pod in pods {
        let pool =
            options.pools.iter().find(|pool| pod.name.starts_with(pool.name)).map_or("", |pool| pool.name);
        text.push_str(&pod_manifest(NAMESPACE, &pod.name, pod.address.ip(), &format!("app: {pool}")));
    }
    fs::write(folder.join("pods.yaml"), text)?;
    Ok(())
}

fn gateway(options: &HarnessOptions) -> String {
    let models: Vec<&str> = options.pools.iter().map(|pool| pool.model).collect();
    format!("{}---\n{}", gateway_manifest(GATEWAY_NAMESPACE), policy_manifest(GATEWAY_NAMESPACE, &models))
}

/// The Gateway of the guide.
pub fn gateway_manifest(namespace: &str) -> String {
    format!(
        r"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: inference-gateway
  namespace: {namespace}
spec:
  gatewayClassName: forebay
  listeners:
    - protocol: HTTP
      port: 8080
      name: http
      allowedRoutes:
        namespaces:
          from: All
"
    )
}

/// The model map of the guide (AgentgatewayPolicy) with these models.
pub fn policy_manifest(namespace: &str, models: &[&str]) -> String {
    let entries: Vec<String> = models.iter().map(|model| format!("\"{model}\": \"{model}\"")).collect();
    let entries = entries.join(",\n                ");
    format!(
        r"apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata:
  name: bbr
  namespace: {namespace}
spec:
  targetRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: inference-gateway
  traffic:
    phase: PreRouting
    transformation:
      request:
        set:
          - name: X-Gateway-Base-Model-Name
            value: |
              {{
                {entries}
              }}[json(request.body).model]
"
    )
}

/// Name of the Service of the picker of all pools.
const SHARED_PICKER: &str = "shared-epp";

/// The Service of a pool whose picker serves all pools, as the chart makes it.
fn external_name(pool: &str) -> String {
    format!(
        r"---
apiVersion: v1
kind: Service
metadata:
  name: {pool}-epp
  namespace: {NAMESPACE}
spec:
  type: ExternalName
  externalName: {SHARED_PICKER}.{GATEWAY_NAMESPACE}.svc.cluster.local
  ports:
    - name: grpc-ext-proc
      port: 9002
      appProtocol: http2
"
    )
}

/// Lets the pools use the picker of another namespace.
fn reference_grant() -> String {
    format!(
        r#"apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata:
  name: {SHARED_PICKER}
  namespace: {GATEWAY_NAMESPACE}
spec:
  from:
    - group: inference.networking.k8s.io
      kind: InferencePool
      namespace: {NAMESPACE}
  to:
    - group: ""
      kind: Service
      name: {SHARED_PICKER}
"#
    )
}

fn pool_manifest(pool: &PoolOptions, failure_mode: &str) -> String {
    let PoolOptions { name, model, .. } = pool;
    format!(
        r#"apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  selector:
    matchLabels:
      app: {name}
  targetPorts:
    - number: {POD_PORT}
  endpointPickerRef:
    name: {name}-epp
    port:
      number: 9002
    failureMode: {failure_mode}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  parentRefs:
    - name: inference-gateway
      namespace: {GATEWAY_NAMESPACE}
  rules:
    - matches:
        - headers:
            - type: Exact
              name: X-Gateway-Base-Model-Name
              value: {model}
      backendRefs:
        - group: inference.networking.k8s.io
          kind: InferencePool
          name: {name}
"#
    )
}

fn picker_service(namespace: &str, name: &str, replicas: impl Iterator<Item = IpAddr>) -> String {
    let endpoints: String = replicas
        .map(|ip| format!("\n  - addresses: [\"{ip}\"]\n    conditions:\n      ready: true"))
        .collect();
    format!(
        r#"---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  ports:
    - name: grpc-ext-proc
      port: 9002
      appProtocol: http2
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-0
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
  - name: grpc-ext-proc
    port: 9002
endpoints:{endpoints}
"#
    )
}

pub(super) fn pod_manifest(namespace: &str, name: &str, ip: IpAddr, label: &str) -> String {
    let uid = uid(name);
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {uid}
  labels:
    {label}
spec:
  nodeName: {NODE}
  containers:
    - name: main
      image: local
status:
  phase: Running
  podIP: {ip}
  conditions:
    - type: Ready
      status: "True"
"#
    )
}

/// A uid derived from the name.
pub(super) fn uid(name: &str) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let hash = hasher.finish();
    format!("{:08x}-{:04x}-4000-8000-{:012x}", hash >> 32, hash >> 16 & 0xffff, hash & 0xffff_ffff_ffff)
}
