//! The test harness: a real picker on real sockets, a scripted gateway, and scripted agents.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

pub mod agent;
pub mod gateway;

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use forebay_epp::{PickerOptions, Server, ServerOptions, endpoints::EndpointView, schedule::Scheduler};
use forebay_resources::{ObjectKey, ResourceSource};
use tokio::time::Instant;

pub const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// Waits until `probe` returns a value.
pub async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub struct Harness {
    pub folder: tempfile::TempDir,
    pub server: Server,
}

pub const POOL: &str = "
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: qwen, namespace: llm-d }
spec:
  selector: { matchLabels: { app: qwen } }
  targetPorts: [{ number: 8000 }]
  endpointPickerRef: { name: qwen-epp, port: { number: 9002 } }
";

/// Manifest of pod number `n`, at 127.0.1.`n`:8000.
pub fn pod(n: u8, ready: bool) -> String {
    pod_at(&format!("vllm-{n}"), &format!("uid-{n}"), "qwen", &format!("127.0.1.{n}"), ready)
}

pub fn pod_at(name: &str, uid: &str, app: &str, ip: &str, ready: bool) -> String {
    let ready = if ready { "True" } else { "False" };
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{ name: {name}, namespace: llm-d, uid: {uid}, labels: {{ app: {app} }} }}\n\
         spec: {{ nodeName: node-a, containers: [] }}\n\
         status: {{ podIP: {ip}, conditions: [{{ type: Ready, status: \"{ready}\" }}] }}\n"
    )
}

pub fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, n], 8000))
}

impl Harness {
    /// A pool of `pods` ready pods and no agent.
    pub async fn with_pods(pods: u8) -> Self {
        let mut manifests = vec![("pool.yaml".to_owned(), POOL.to_owned())];
        manifests.extend((1..=pods).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
        Self::start(&manifests, |_| {}).await
    }

    pub async fn start(manifests: &[(String, String)], adjust: impl FnOnce(&mut ServerOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in manifests {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = ServerOptions {
            resources: ResourceSource::Folder(folder.path().to_owned()),
            pools: ObjectKey::new("llm-d", "qwen").into(),
            grpc_listen: vec![any],
            tls: None,
            health_listen: any,
            http_listen: any,
            picker: PickerOptions { agent_heartbeat: Duration::from_millis(500), ..PickerOptions::default() },
            max_message_bytes: 4 << 20,
            max_streams: 1000,
            obeyed: forebay_epp::protocol::ObeyedHeaders::default(),
            drain_timeout: Duration::from_secs(1),
        };
        adjust(&mut options);
        let server = Server::start(options).await.unwrap();
        Self { folder, server }
    }

    pub fn write(&self, file: &str, text: &str) {
        let hidden = self.folder.path().join(format!(".{file}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.folder.path().join(file)).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.folder.path().join(file)).unwrap();
    }

    /// The scheduler of `llm-d/qwen`.
    pub fn scheduler(&self) -> Arc<Scheduler> {
        self.server.scheduler(&ObjectKey::new("llm-d", "qwen")).expect("the pool is served")
    }

    pub fn endpoints(&self) -> Vec<EndpointView> {
        self.scheduler().endpoints().endpoints()
    }

    /// The endpoint of pod `n`.
    pub fn endpoint(&self, n: u8) -> EndpointView {
        self.endpoints()
            .into_iter()
            .find(|view| view.endpoint.address == address(n))
            .expect("a member of the pool")
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&[EndpointView]) -> bool) {
        eventually(what, || condition(&self.endpoints()).then_some(())).await;
    }

    /// Waits until the endpoint of pod `n` satisfies `condition`.
    pub async fn until_endpoint(&self, n: u8, what: &str, condition: impl Fn(&EndpointView) -> bool) {
        self.until(what, |endpoints| {
            endpoints.iter().any(|view| view.endpoint.address == address(n) && condition(view))
        })
        .await;
    }

    /// Status and body of an HTTP page.
    pub async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.server.http_address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: epp\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// The value of a series. 0 if the series does not exist.
    pub async fn metric(&self, line: &str) -> f64 {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200);
        let value = text.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }
}

/// IP address of agent number `n`. All agents have the same port, so each has its own address.
pub fn agent_ip(n: u8) -> std::net::IpAddr {
    std::net::Ipv4Addr::new(127, 0, 2, n).into()
}
