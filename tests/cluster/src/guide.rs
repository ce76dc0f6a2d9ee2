//! The steps of the llm-d guide. Changed: class name and chart references. Left out: the OpenShift Route.

use std::net::SocketAddr;

use forebay_e2e::harness::{gateway_manifest, policy_manifest};
use serde_json::Value;

use crate::{Cluster, charts::chart, until};

/// Namespace of gateway and agents.
pub const SYSTEM: &str = "agentgateway-system";
/// Namespace of the models.
pub const MODELS: &str = "llm-d";

pub use forebay_e2e::harness::{QWEN, TINYLLAMA as LLAMA};

/// Small resource requests: the test machine has two cores.
const SMALL: &str = "--set gateway.resources.requests.cpu=50m --set agent.resources.requests.cpu=10m";

impl Cluster {
    /// Step 1: install agent and gateway (agentgateway in the guide).
    pub fn install_forebay(&self, more: &str) {
        let chart = chart("forebay");
        self.helm(&format!(
            "upgrade --install forebay {chart} --namespace {SYSTEM} --create-namespace --wait --timeout 120s {SMALL} {more}"
        ));
    }

    /// Step 2: create the Gateway.
    pub fn create_gateway(&self) {
        self.apply(&gateway_manifest(SYSTEM));
        until("the Gateway is programmed", || {
            let gateway = self.get(&format!("gateway inference-gateway -n {SYSTEM}"))?;
            condition(&gateway["status"]["conditions"], "Programmed")
        });
    }

    /// Step 3: map these models.
    pub fn map_models(&self, models: &[&str]) {
        self.apply(&policy_manifest(SYSTEM, models));
    }

    /// Step 4: create the pool of one model.
    pub fn create_pool(&self, release: &str, model: &str) {
        let chart = chart("inferencepool");
        self.helm(&format!(
            "upgrade --install {release} --dependency-update \
             --set inferencePool.modelServers.matchLabels.app={release} --set provider.name=none \
             --set inferencePool.modelServerType=vllm --set experimentalHttpRoute.enabled=true \
             --set experimentalHttpRoute.baseModel={model} --set inferenceExtension.resources.requests.cpu=10m \
             --version v1.3.0 --create-namespace --namespace {MODELS} {chart}"
        ));
    }

    /// Step 5: deploy simulated model servers with the label that the pool selects.
    pub fn deploy_model_server(&self, name: &str, label: &str, model: &str, replicas: u32) {
        let manifest = MODEL_SERVER
            .replace("NAME", name)
            .replace("LABEL", label)
            .replace("MODEL", model)
            .replace("REPLICAS", &replicas.to_string());
        self.apply(&manifest);
    }

    /// Step 6: attach the route to the Gateway.
    pub fn attach_route(&self, route: &str) {
        let patch = format!(r#"[{{"op":"add","path":"/spec/parentRefs/0/namespace","value":"{SYSTEM}"}}]"#);
        self.run("kubectl", &["patch", "httproute", route, "-n", MODELS, "--type=json", "-p", &patch], None);
    }

    /// All steps up to "Verify the deployment", with this number of servers of each model.
    pub fn follow_the_guide(&self, qwen: u32, llama: u32) {
        self.install_forebay("");
        self.create_gateway();
        self.map_models(&[QWEN, LLAMA]);
        self.create_pool("vllm-qwen3-06b", QWEN);
        self.create_pool("vllm-tinyllama-11b", LLAMA);
        self.deploy_model_server("ms-qwen", "vllm-qwen3-06b", QWEN, qwen);
        self.deploy_model_server("ms-llama", "vllm-tinyllama-11b", LLAMA, llama);
        self.attach_route("vllm-qwen3-06b");
        self.attach_route("vllm-tinyllama-11b");
        self.pods_ready(&format!("-n {MODELS} -l app=vllm-qwen3-06b"), qwen as usize);
        self.pods_ready(&format!("-n {MODELS} -l app=vllm-tinyllama-11b"), llama as usize);
        self.pods_ready(&format!("-n {MODELS} -l app.kubernetes.io/name=forebay-epp"), 4);
    }

    /// Removes everything that [`Self::follow_the_guide`] created.
    pub fn uninstall(&self) {
        self.helm(&format!(
            "uninstall vllm-qwen3-06b vllm-tinyllama-11b --namespace {MODELS} --wait --ignore-not-found"
        ));
        self.kubectl(&format!("delete gateway inference-gateway -n {SYSTEM} --ignore-not-found"));
        self.helm(&format!("uninstall forebay --namespace {SYSTEM} --wait --ignore-not-found"));
        self.kubectl(&format!("delete namespace {MODELS} {SYSTEM} --ignore-not-found --wait=false"));
    }

    /// Address of the Gateway: address from its status, port of its listener.
    pub fn gateway_address(&self) -> SocketAddr {
        until("the Gateway's address", || {
            let gateway = self.get(&format!("gateway inference-gateway -n {SYSTEM}"))?;
            let address = &gateway["status"]["addresses"][0];
            let port = &gateway["spec"]["listeners"][0]["port"];
            let ip = address["value"].as_str().ok_or_else(|| gateway["status"].to_string())?;
            format!("{ip}:{port}").parse().map_err(|error| format!("{address}: {error}"))
        })
    }

    /// Number of attached routes from the status of the Gateway.
    ///
    /// # Errors
    /// The status, if it has no number.
    pub fn attached_routes(&self) -> Result<u64, String> {
        let gateway = self.get(&format!("gateway inference-gateway -n {SYSTEM}"))?;
        gateway["status"]["listeners"][0]["attachedRoutes"]
            .as_u64()
            .ok_or_else(|| gateway["status"].to_string())
    }
}

/// Checks that a condition is True.
///
/// # Errors
/// All conditions.
pub fn condition(conditions: &Value, kind: &str) -> Result<(), String> {
    let is_true = |it: &Value| it["type"] == kind && it["status"] == "True";
    if conditions.as_array().into_iter().flatten().any(is_true) {
        Ok(())
    } else {
        Err(conditions.to_string())
    }
}

/// A Deployment of simulators. Port 7999 serves exact counters.
const MODEL_SERVER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: llm-d}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: LABEL}}
  template:
    metadata: {labels: {app: LABEL}}
    spec:
      terminationGracePeriodSeconds: 5
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: vllm
        image: docker.io/forebay/vllm-sim:0.1.0
        imagePullPolicy: Never
        args: [--listen=0.0.0.0:8000, --truth-listen=0.0.0.0:7999, --served-model-name=MODEL, --token-interval-us=2000]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 1}
";
