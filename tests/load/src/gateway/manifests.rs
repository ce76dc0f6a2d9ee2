//! The resources of the gateway and the picker.

use std::fmt::Write as _;

use anyhow::Result;
use forebay_e2e::harness::{NAMESPACE, gateway_manifest, policy_manifest};

use crate::{MODEL, request::KEY, tls::Tls};

const SYSTEM: &str = "forebay-system";
pub(crate) const POOL: &str = "qwen";
/// Listener ports of the Gateway.
pub(crate) const PLAIN_PORT: u16 = 8080;
pub(crate) const TLS_PORT: u16 = 8443;
const SECRET: &str = "models";
/// Number of pods in the pool: 127.0.0.1 and following, all served by the same upstream.
const PODS: u8 = 4;
const TARGET: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}";

/// Gateway, model map and route of the guide, and a pool of [`PODS`] pods. `picker`: port of its picker, if any.
pub(crate) fn pool(upstream_port: u16, tls: Option<&Tls>, picker: &[u16]) -> Result<String> {
    let mut text = gateway_manifest(SYSTEM);
    if let Some(tls) = tls {
        write!(
            text,
            "    - protocol: HTTPS
      port: {TLS_PORT}
      name: https
      tls: {{certificateRefs: [{{name: {SECRET}}}]}}
      allowedRoutes: {{namespaces: {{from: All}}}}
---
{}",
            tls.secret(SECRET, SYSTEM)
        )?;
    }
    write!(text, "---\n{}", policy_manifest(SYSTEM, &[MODEL]))?;
    let reference = picker.iter().map(|port| {
        format!(
            "\n  endpointPickerRef: {{name: {POOL}-epp, port: {{number: {port}}}, failureMode: FailClose}}"
        )
    });
    let reference: String = reference.collect();
    write!(
        text,
        "---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {POOL}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: {POOL}}}}}
  targetPorts: [{{number: {upstream_port}}}]{reference}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {POOL}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: inference-gateway, namespace: {SYSTEM}}}]
  rules:
    - matches: [{{headers: [{{type: Exact, name: X-Gateway-Base-Model-Name, value: {MODEL}}}]}}]
      backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: {POOL}}}]
"
    )?;
    for pod in 1..=PODS {
        write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {POOL}-{pod}, namespace: {NAMESPACE}, labels: {{app: {POOL}}}}}
spec: {{nodeName: bench, containers: [{{name: main, image: local}}]}}
status: {{phase: Running, podIP: 127.0.0.{pod}, conditions: [{{type: Ready, status: 'True'}}]}}
"
        )?;
    }
    for port in picker {
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: {POOL}-epp, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: grpc, port: {port}, appProtocol: http2}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {POOL}-epp-0, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {POOL}-epp}}}}
addressType: IPv4
ports: [{{name: grpc, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"
        )?;
    }
    Ok(text)
}

/// API keys, a rule over the model, and three quotas that no load reaches: requests, tokens and money of each key, and
/// concurrent requests of all.
pub(crate) fn door() -> String {
    let quota = |name: &str, fields: &str| {
        format!(
            "---
apiVersion: forebay.dev/v1alpha1
kind: Quota
metadata: {{name: {name}, namespace: {SYSTEM}}}
spec: {{targetRefs: [{TARGET}], {fields}}}
"
        )
    };
    let group = "callers: {keySelector: {matchLabels: {group: bench}}}";
    [
        format!(
            "---
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: {SYSTEM}}}
stringData:
  bench: '{{\"key\": \"{KEY}\", \"metadata\": {{\"group\": \"bench\", \"models\": [\"{MODEL}\"]}}}}'
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: door, namespace: {SYSTEM}}}
spec:
  targetRefs: [{TARGET}]
  traffic:
    apiKeyAuthentication: {{secretRef: {{name: keys}}}}
    authorization: {{action: Require, policy: {{matchExpressions: ['llm.model in apiKey.models']}}}}
"
        ),
        quota("requests", &format!("{group}, per: apiKey.name, limits: [{{requests: 1000000000, window: Day}}]")),
        quota(
            "tokens",
            &format!(
                "{group}, per: apiKey.name, limits: [{{tokens: 1000000000000, window: Day}}, \
                 {{money: \"999999999\", window: Month}}], prices: [{{model: \"*\", input: \"0.1\", output: \"0.4\"}}]"
            ),
        ),
        quota("concurrent", "limits: [{concurrentRequests: 100000}]"),
    ]
    .concat()
}
