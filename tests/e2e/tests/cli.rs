//! `forebay`: exit codes and JSON output.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use forebay_agent::publish::{LoadReport, Publisher, TelemetryService};
use forebay_e2e::harness::program;
use forebay_telemetry::v1::{
    EndpointKey, EngineLoad, Gpu, KernelLoad, Latency, Node, telemetry_server::TelemetryServer,
};
use forebay_test_certificates::{Authority, Issued};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

/// The telemetry service of an agent with one pod and one GPU, in this process.
struct Agent {
    address: SocketAddr,
    publisher: Arc<Publisher>,
    _server: JoinSet<()>,
}

const POD: &str = "10.0.0.1:8000";

impl Agent {
    async fn start() -> Self {
        let publisher = Arc::new(Publisher::new(Node { name: "n".into(), ..Node::default() }));
        let address: SocketAddr = POD.parse().unwrap();
        let key = EndpointKey {
            namespace: "a".into(),
            pod: "engine".into(),
            uid: "u".into(),
            ip: address.ip().to_string(),
            port: address.port().into(),
        };
        publisher.set_endpoints(BTreeMap::from([(address, key)]));
        let gpu = Gpu { uuid: "GPU-0".into(), name: "N".into(), health: 1, ..Gpu::default() };
        publisher.set_gpus(vec![gpu], &BTreeMap::new(), Some(1));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TelemetryService::new(Arc::clone(&publisher), 1, CancellationToken::new());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(TelemetryServer::new(service));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, publisher, _server: server }
    }

    fn measure(&self) {
        let latency = Some(Latency { count: 1, ..Latency::default() });
        let load =
            KernelLoad { in_flight: 3, waiting_request_bytes: 512, ttft: latency, ..KernelLoad::default() };
        self.publisher.set_kernel(POD.parse().unwrap(), "u", LoadReport::Measured(load));
        let load = EngineLoad { running: 2, ..EngineLoad::default() };
        self.publisher.set_engine(POD.parse().unwrap(), "u", LoadReport::Measured(load));
    }
}

/// An address without a listener.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn forebay() -> Command {
    let mut command = Command::new(program("forebay").unwrap());
    // Do not use the kubeconfig of the user.
    command
        .env_remove("FOREBAY_AGENTS")
        .env_remove("FOREBAY_RESOURCES")
        .env_remove("KUBERNETES_SERVICE_HOST");
    command.env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
    command
}

async fn run(args: &[&str]) -> Output {
    let mut command = forebay();
    command.args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn json(subject: &str, agent: &Agent) -> Value {
    let output = run(&[subject, "-o", "json", "--agents", &agent.address.to_string()]).await;
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn sorted<const N: usize>(mut names: [&str; N]) -> Vec<&str> {
    names.sort_unstable();
    names.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_depends_on_responding_agents() {
    let agent = Agent::start().await;
    let (here, gone) = (agent.address.to_string(), unused_address().to_string());
    for (agents, code) in [(here.clone(), 0), (gone.clone(), 1), (format!("{here},{gone}"), 3)] {
        let output = run(&["pods", "--agents", &agents]).await;
        assert_eq!(output.status.code(), Some(code), "{agents}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.contains(&gone), code != 0, "agents without a response are named: {text}");
    }
    for usage in [&["pods", "--nonsense"][..], &["pods", "--agents", "no-address"], &["what"], &[]] {
        assert_eq!(run(usage).await.status.code(), Some(2), "{usage:?}");
    }
    let without_agents = run(&["pods"]).await;
    assert_eq!(without_agents.status.code(), Some(2));
    assert!(String::from_utf8(without_agents.stderr).unwrap().contains("--agents"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_values_are_null_or_dash() {
    let agent = Agent::start().await;
    let pods = json("pods", &agent).await;
    let pod = &pods["items"][0];
    assert_eq!(
        (&pod["kernel"], &pod["engine"], &pod["kernelOff"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let gpus = json("gpus", &agent).await;
    for unknown in ["utilizationPercent", "memoryUsedBytes", "powerMilliwatts", "lastXid", "healthReason"] {
        assert_eq!(gpus["items"][0][unknown], Value::Null, "{unknown}");
    }
    let output = run(&["pods", "--agents", &agent.address.to_string()]).await;
    let table = String::from_utf8(output.stdout).unwrap();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(row.contains(&"-") && !row.contains(&"0"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_fields_are_stable() {
    let agent = Agent::start().await;
    agent.measure();
    let (nodes, pods, gpus) =
        (json("nodes", &agent).await, json("pods", &agent).await, json("gpus", &agent).await);
    for (list, kind) in [(&nodes, "NodeList"), (&pods, "PodList"), (&gpus, "GpuList")] {
        assert_eq!((&list["apiVersion"], &list["kind"]), (&"forebay.dev/v1alpha1".into(), &kind.into()));
    }
    let node = ["name", "agent", "agentVersion", "endpoints", "gpus", "kernelOff", "gpuOff"];
    assert_eq!(keys(&nodes["items"][0]), sorted(node));
    let pod = &pods["items"][0];
    let names = [
        "namespace",
        "name",
        "uid",
        "node",
        "ip",
        "port",
        "kernel",
        "kernelOff",
        "engine",
        "engineOff",
        "gpuUuids",
        "liveness",
    ];
    assert_eq!(keys(pod), sorted(names));
    let kernel = [
        "ageSeconds",
        "inFlight",
        "waiting",
        "started",
        "finished",
        "aborted",
        "otherRequests",
        "waitingRequestBytes",
        "oldestRequestSeconds",
        "oldestRequestHasResponse",
        "requestsWithResponse",
        "silentSeconds",
        "responses2xx",
        "responses4xx",
        "responses5xx",
        "bytesIn",
        "bytesOut",
        "chunks",
        "opaqueConnections",
        "ttft",
        "itl",
        "duration",
    ];
    assert_eq!(keys(&pod["kernel"]), sorted(kernel));
    assert_eq!((&pod["kernel"]["inFlight"], &pod["engine"]["running"]), (&3.into(), &2.into()));
    assert_eq!(pod["kernel"]["waitingRequestBytes"], 512);
    assert_eq!(pod["kernel"]["itl"], Value::Null, "no measurement");
    let latency = ["count", "sumSeconds", "p50Seconds", "p95Seconds", "p99Seconds", "buckets"];
    assert_eq!(keys(&pod["kernel"]["ttft"]), sorted(latency));
    let engine = [
        "ageSeconds",
        "running",
        "queue",
        "kvCacheUsage",
        "promptTokens",
        "generationTokens",
        "prefixCacheQueries",
        "prefixCacheHits",
        "preemptions",
        "requestsSucceeded",
        "steps",
        "sleeping",
        "blockSizeTokens",
        "numGpuBlocks",
        "models",
        "modelsOmitted",
    ];
    assert_eq!(keys(&pod["engine"]), sorted(engine));
    let gpu = [
        "node",
        "index",
        "uuid",
        "name",
        "ageSeconds",
        "health",
        "healthReason",
        "utilizationPercent",
        "memoryUsedBytes",
        "memoryTotalBytes",
        "temperatureCelsius",
        "powerMilliwatts",
        "powerLimitMilliwatts",
        "smClockMhz",
        "smClockMaxMhz",
        "throttleReasons",
        "xidErrors",
        "lastXid",
    ];
    assert_eq!(keys(&gpus["items"][0]), sorted(gpu));
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_output_has_more_columns() {
    let agent = Agent::start().await;
    agent.measure();
    for (format, expected) in [("table", None), ("wide", Some("512"))] {
        let output = run(&["pods", "-o", format, "--agents", &agent.address.to_string()]).await;
        let table = String::from_utf8(output.stdout).unwrap();
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (header, row) = (rows.next().unwrap(), rows.next().unwrap());
        let column = header.iter().position(|name| *name == "WAITING-BYTES");
        assert_eq!(column.map(|column| row[column]), expected, "{table}");
    }
}

/// A process. Drop kills it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_one_document_per_line_until_interrupted() {
    let agent = Agent::start().await;
    let mut command = forebay();
    command.args(["pods", "--watch", "-o", "json", "--agents", &agent.address.to_string()]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let pid = Pid::from_raw(running.0.id().try_into().unwrap()).unwrap();
    let (first, second) = tokio::task::spawn_blocking(move || {
        let first = lines.next().unwrap().unwrap();
        agent.measure();
        let changed = lines.map(Result::unwrap).find(|line| line.contains("\"inFlight\":3")).unwrap();
        (first, changed)
    })
    .await
    .unwrap();
    for line in [&first, &second] {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["kind"], "PodList");
    }
    kill_process(pid, Signal::INT).unwrap();
    let status = tokio::task::spawn_blocking(move || running.0.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Gateways that were started.
static GATEWAYS: AtomicU8 = AtomicU8::new(0);

/// Starts a gateway in front of `pod`. Its listeners on ports 8081 and 8443 (TLS, `gw.example`) are trusted.
async fn gateway(pod: SocketAddr, folder: &Path, certificate: &Issued) -> (Running, IpAddr) {
    let indented = |text: &str| text.trim().replace('\n', "\n    ");
    let manifests = format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: g, namespace: infra, annotations: {{ forebay.dev/trusted-listeners: 'mesh,secure' }} }}
spec:
  gatewayClassName: forebay
  listeners:
  - {{ name: http, protocol: HTTP, port: 8080, allowedRoutes: {{ namespaces: {{ from: All }} }} }}
  - {{ name: mesh, protocol: HTTP, port: 8081, allowedRoutes: {{ namespaces: {{ from: All }} }} }}
  - {{ name: secure, protocol: HTTPS, port: 8443, hostname: gw.example, allowedRoutes: {{ namespaces: {{ from: All }} }}, tls: {{ certificateRefs: [{{ name: tls }}] }} }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: tls, namespace: infra }}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{ name: qwen, namespace: llm-d }}
spec: {{ selector: {{ matchLabels: {{ app: qwen }} }}, targetPorts: [{{ number: {} }}] }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: qwen-0, namespace: llm-d, labels: {{ app: qwen }} }}
status: {{ podIP: {}, conditions: [{{ type: Ready, status: "True" }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: qwen, namespace: llm-d }}
spec:
  parentRefs: [{{ name: g, namespace: infra }}]
  rules:
  - matches: [{{ headers: [{{ name: X-Gateway-Base-Model-Name, value: qwen }}] }}]
    backendRefs: [{{ group: inference.networking.k8s.io, kind: InferencePool, name: qwen }}]
"#,
        indented(&certificate.certificate),
        indented(&certificate.key),
        pod.port(),
        pod.ip()
    );
    std::fs::write(folder.join("all.yaml"), manifests).unwrap();
    // A separate address, because the ports are fixed and the tests run at one time.
    let number = GATEWAYS.fetch_add(1, Ordering::Relaxed) & 1;
    let [.., a, b, c] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 128 | (number << 6) | (a & 63), b, c.clamp(1, 254));
    let child = Command::new(program("forebay-gateway").unwrap())
        .args([
            format!("--resources={}", folder.display()),
            format!("--bind-address={address}"),
            format!("--admin-listen={address}:0"),
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    for port in [8081, 8443] {
        while tokio::net::TcpStream::connect((address, port)).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "the gateway is not listening");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (running, address.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_works_only_on_trusted_listeners() {
    let pod = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod_address = pod.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("gateway-ca").unwrap();
    let certificate = authority.issue_for("gw.example").unwrap();
    let (_gateway, address) = gateway(pod_address, folder.path(), &certificate).await;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (mut connection, _) = pod.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.windows(4).any(|it| it == b"\r\n\r\n") {
                connection.read_buf(&mut seen).await.unwrap();
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
    });
    let explain = async |port: u16, model: &str, output: &str| {
        let listener = format!("{address}:{port}");
        run(&["explain", "--gateway", &listener, "-o", output, model]).await
    };

    let served = explain(8081, "qwen", "json").await;
    assert_eq!(served.status.code(), Some(0), "{}", String::from_utf8_lossy(&served.stderr));
    let document: Value = serde_json::from_slice(&served.stdout).unwrap();
    assert_eq!(keys(&document), sorted(["apiVersion", "kind", "status", "error", "explanation"]));
    let explanation = &document["explanation"];
    assert_eq!(explanation["servedBy"], pod_address.to_string());
    assert_eq!((&explanation["backend"], &explanation["attempts"]), (&"llm-d/qwen".into(), &1.into()));

    let table = String::from_utf8(explain(8081, "qwen", "table").await.stdout).unwrap();
    let line = table.lines().find(|line| line.starts_with("served by")).unwrap();
    assert!(line.contains(&pod_address.to_string()), "{table}");

    let unknown = explain(8081, "unknown-model", "table").await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stdout).unwrap().contains("404 "));
    let stranger = explain(8080, "qwen", "table").await;
    assert_eq!(stranger.status.code(), Some(1));
    assert!(String::from_utf8(stranger.stderr).unwrap().contains("forebay.dev/trusted-listeners"));
    assert_eq!(explain(1, "qwen", "table").await.status.code(), Some(1), "no gateway is listening");

    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let explain = async |gateway: &str, more: &[&str]| {
        run(&[&["explain", "--gateway", gateway, "qwen"], more].concat()).await
    };
    let (secure, trusted) = (format!("https://{address}:8443"), trusted.to_str().unwrap());
    let served = explain(&secure, &["--host", "gw.example", "--tls-ca", trusted]).await;
    let text = String::from_utf8_lossy(&served.stdout).into_owned();
    assert_eq!(served.status.code(), Some(0), "{}", String::from_utf8_lossy(&served.stderr));
    assert!(text.contains("port 8443, hostname gw.example"), "{text}");
    for (gateway, more, problem) in [
        (secure.as_str(), &["--host", "gw.example"][..], "UnknownIssuer"),
        (&secure, &["--host", "other.example", "--tls-ca", trusted], "TLS handshake with"),
        (&format!("{address}:8081"), &["--tls-ca", trusted], "needs a TLS listener: use https://"),
        (&secure, &["--host", "gw.example", "--tls-ca", "/nonexistent"], "/nonexistent"),
    ] {
        let refused = explain(gateway, more).await;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{gateway} {more:?}");
        assert!(text.contains(problem), "{gateway} {more:?}: {text}");
    }
}

/// The events of a response to a POST of the dashboard's page: the names, and the data.
async fn ask_dashboard(url: &str, body: &Value) -> Vec<(String, String)> {
    let (address, token) = url.trim_end().strip_prefix("http://").unwrap().split_once("/#").unwrap();
    let body = body.to_string();
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\nauthorization: Bearer \
         {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut response))
        .await
        .unwrap()
        .unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let data = response.lines().scan(String::from("message"), |name, line| {
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(name);
        }
        Some(
            line.strip_prefix("data: ")
                .map(|data| (std::mem::replace(name, "message".into()), data.to_owned())),
        )
    });
    data.flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_sends_prompts_and_shows_the_gateways_decision() {
    let pod = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod_address = pod.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certificate = Authority::new("gateway-ca").unwrap().issue_for("gw.example").unwrap();
    let (_gateway, address) = gateway(pod_address, folder.path(), &certificate).await;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (mut connection, _) = pod.accept().await.unwrap();
            let mut seen = Vec::new();
            // The gateway also asks for the models: with a GET, which gets no response.
            while !seen.windows(8).any(|it| it == b"Why not?") && !seen.starts_with(b"GET") {
                assert_ne!(connection.read_buf(&mut seen).await.unwrap(), 0);
            }
            let content = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
            let response = if seen.starts_with(b"GET") { String::new() } else { format!("{head}{content}") };
            connection.write_all(response.as_bytes()).await.unwrap();
        }
    });
    let agent = Agent::start().await;
    let prompt = |model: &str| serde_json::json!({ "model": model, "prompt": "Why not?", "maxTokens": 5 });
    for (port, is_trusted) in [(8081, true), (8080, false)] {
        let child = Command::new(program("forebay").unwrap())
            .args([
                "dashboard",
                "--agents",
                &agent.address.to_string(),
                "--gateway",
                &format!("{address}:{port}"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut dashboard = Running(child);
        let mut url = String::new();
        BufReader::new(dashboard.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let events = ask_dashboard(&url, &prompt("qwen")).await;
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["head", "message", "message", "end"], "{events:?}");
        let head: Value = serde_json::from_str(&events[0].1).unwrap();
        assert_eq!((&head["status"], &events[2].1), (&200.into(), &"[DONE]".to_owned()));
        if is_trusted {
            let explanation = &head["explanation"];
            assert_eq!(
                (&explanation["servedBy"], &head["advice"]),
                (&pod_address.to_string().into(), &Value::Null)
            );
            let endpoint = &explanation["decision"]["endpoints"][0];
            assert_eq!(endpoint["address"], pod_address.to_string(), "{head}");
        } else {
            assert_eq!(head["explanation"], Value::Null);
            assert!(head["advice"].as_str().unwrap().contains("forebay.dev/trusted-listeners"), "{head}");
        }
        let events = ask_dashboard(&url, &prompt("unknown-model")).await;
        let head: Value = serde_json::from_str(&events[0].1).unwrap();
        assert_eq!(head["status"], 404);
        assert!(head["error"].as_str().unwrap().starts_with("model_not_found"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_contains_the_name() {
    let text = String::from_utf8(run(&["--version"]).await.stdout).unwrap();
    assert_eq!(text, concat!("forebay ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_a_folder_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: g, namespace: infra }
spec:
  gatewayClassName: forebay
  listeners: [{ name: http, protocol: HTTP, port: 80 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: llm-d }
spec: { parentRefs: [{ name: g }], rules: [{ backendRefs: [{ group: inference.networking.k8s.io, kind: InferencePool, name: p }] }] }
";
    std::fs::write(folder.path().join("all.yaml"), route).unwrap();
    let output = run(&["check", "--resources", folder.path().to_str().unwrap()]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("kubectl patch httproute r -n llm-d"), "{text}");
    assert_eq!(run(&["check"]).await.status.code(), Some(2), "no cluster configured");
}
