//! A cluster with a pool of one pod, and gateways.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser as _;
use forebay_apiserver::{ApiServer, crds};
use forebay_gateway::{Config, Gateway, READ_RULES, STATUS_RULES, WRITE_RULES};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Long, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);
const USER: &str = "system:serviceaccount:forebay:forebay-gateway";

pub struct Harness {
    pub server: ApiServer,
    pub client: Client,
    _upstream: AbortOnDropHandle<()>,
    upstream: SocketAddr,
}

impl Harness {
    /// `None` without an API server.
    pub async fn start() -> Option<Self> {
        let server = ApiServer::start().await.unwrap()?;
        server.install(crds()).await.unwrap();
        server.grant(USER, None, READ_RULES.iter().chain(STATUS_RULES)).await.unwrap();
        let client = server.client().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener)));
        let harness = Self { server, client, _upstream: serving, upstream };
        for namespace in ["forebay", "infra", "models"] {
            harness.apply("v1", "Namespace", "", namespace, json!({})).await;
        }
        harness.server.grant(USER, Some("forebay"), WRITE_RULES).await.unwrap();
        Some(harness)
    }

    pub async fn gateway(&self, name: &str, address: Ipv4Addr) -> Gateway {
        let kubeconfig = self.server.kubeconfig_as(USER).unwrap();
        let config = Config::parse_from([
            "forebay-gateway",
            "--kubeconfig",
            kubeconfig.to_str().unwrap(),
            "--pod-namespace=forebay",
            &format!("--pod-name={name}"),
            &format!("--bind-address={address}"),
            &format!("--admin-listen={address}:0"),
            "--drain-timeout=1",
        ]);
        let started = tokio::time::timeout(DEADLINE, Gateway::start(config)).await;
        started.expect("the gateway has all it needs").unwrap()
    }

    pub fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let plural = match kind {
            "GatewayClass" => "gatewayclasses".to_owned(),
            "AgentgatewayPolicy" => "agentgatewaypolicies".to_owned(),
            _ => format!("{}s", kind.to_lowercase()),
        };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    pub async fn apply(&self, api_version: &str, kind: &str, namespace: &str, name: &str, rest: Value) {
        let mut object = json!({ "apiVersion": api_version, "kind": kind });
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object["metadata"]["name"] = json!(name);
        let api = self.api(api_version, kind, namespace);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    pub async fn set_status(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
        status: Value,
    ) {
        let api = self.api(api_version, kind, namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// A pool with one pod that responds.
    pub async fn pool(&self, name: &str) {
        self.apply(
            "inference.networking.k8s.io/v1",
            "InferencePool",
            "models",
            name,
            json!({ "spec": {
                "selector": { "matchLabels": { "app": name } },
                "targetPorts": [{ "number": self.upstream.port() }],
            } }),
        )
        .await;
        self.apply(
            "v1",
            "Pod",
            "models",
            &format!("{name}-0"),
            json!({
                "metadata": { "labels": { "app": name } },
                "spec": { "nodeName": "a", "containers": [{ "name": "vllm", "image": "vllm" }] },
            }),
        )
        .await;
        let status = json!({
            "podIP": self.upstream.ip(),
            "podIPs": [{ "ip": self.upstream.ip() }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        self.set_status("v1", "Pod", "models", &format!("{name}-0"), status).await;
    }

    /// A Gateway of the served class with one listener for routes of all namespaces.
    pub async fn listen(&self, name: &str, port: u16) {
        self.apply(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            "infra",
            name,
            json!({ "spec": {
                "gatewayClassName": "forebay",
                "listeners": [{
                    "name": "http", "port": port, "protocol": "HTTP",
                    "allowedRoutes": { "namespaces": { "from": "All" } },
                }],
            } }),
        )
        .await;
    }

    pub async fn route(&self, name: &str, gateway: &str, pool: &str) {
        self.apply(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "models",
            name,
            json!({ "spec": {
                "parentRefs": [{ "name": gateway, "namespace": "infra" }],
                "rules": [{ "backendRefs": [{
                    "group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool,
                }] }],
            } }),
        )
        .await;
    }

    /// Brings a gateway pod up behind a Service, as the endpoint controller would.
    pub async fn ready_behind(&self, service: &str, port: u16) {
        self.apply(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "forebay",
            &format!("{service}-x"),
            json!({
                "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4",
                "ports": [{ "name": port.to_string(), "port": 10_000 }],
                "endpoints": [{ "addresses": ["10.0.0.5"], "conditions": { "ready": true } }],
            }),
        )
        .await;
    }

    pub async fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
        let object = self.api(api_version, kind, namespace).get_opt(name).await.unwrap();
        serde_json::to_value(object).unwrap()
    }

    /// Waits until the object satisfies `condition`, and returns it.
    pub async fn until(
        &self,
        (api_version, kind, namespace, name): (&str, &str, &str, &str),
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let object = self.get(api_version, kind, namespace, name).await;
            if condition(&object) {
                return object;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: not in time: {object:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether `conditions` contains a condition with this status.
pub fn has(conditions: &Value, kind: &str, status: &str) -> bool {
    condition(conditions, kind).is_some_and(|it| it["status"] == status)
}

pub fn condition<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.as_array()?.iter().find(|it| it["type"] == kind)
}

/// Responds to every request with 200.
async fn serve(listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..count]);
                if seen.windows(4).any(|it| it == b"\r\n\r\n") {
                    seen.clear();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        });
    }
}

/// The status of a GET. 0 without a response.
pub async fn get_status(address: SocketAddr) -> u16 {
    let Ok(mut stream) = TcpStream::connect(address).await else { return 0 };
    let request = b"GET /health HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n";
    if stream.write_all(request).await.is_err() {
        return 0;
    }
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
