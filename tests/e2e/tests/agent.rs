//! The agent as a process: changes of pods, engines, cgroups and GPUs, and shutdown.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and fails by panicking"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use forebay_e2e::{
    eventually,
    harness::{Process, get, program},
    pod::{BpfMount, PodCgroup, cgroup2_mount, load_kernel},
};
use forebay_sim::{EngineOptions, Server, ServerOptions};
use serde_json::{Value, json};

const POD_PORT: u16 = 8000;
const POST: &str = "POST /v1/completions HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 60\r\n\r\n";

/// A fake node: manifests, cgroups, bpffs and loopback addresses.
struct Node {
    name: String,
    folder: tempfile::TempDir,
    bpffs: Option<BpfMount>,
    number: u8,
    /// Whether kernel measurement is available.
    counts: bool,
}

impl Node {
    fn new(test: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let folder = tempfile::tempdir().unwrap();
        for below in ["resources", "logs", "bpffs"] {
            fs::create_dir(folder.path().join(below)).unwrap();
        }
        let bpffs = BpfMount::new(&folder.path().join("bpffs")).ok();
        let counts = bpffs.is_some() && load_kernel(Path::new("/nonexistent"), false).is_some();
        let node = Self {
            name: format!("forebay-agent-{}-{test}", std::process::id()),
            folder,
            bpffs,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            counts,
        };
        node.write("pool.yaml", &pool());
        node
    }

    fn ip(&self, host: u8) -> IpAddr {
        let [low, _, _, _] = std::process::id().to_le_bytes();
        IpAddr::from([127, 252, low, self.number.wrapping_mul(8).wrapping_add(host)])
    }

    fn pod_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip(0), POD_PORT)
    }

    fn write(&self, file: &str, text: &str) {
        let new = self.folder.path().join(file);
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.folder.path().join("resources").join(file)).unwrap();
    }

    fn pins(&self) -> PathBuf {
        self.folder.path().join("bpffs/forebay")
    }

    fn cgroup_root(&self) -> PathBuf {
        cgroup2_mount().map_or_else(|_none| "/nonexistent".into(), |mount| mount.join(&self.name))
    }

    /// Creates a pod with this uid: its manifest, its cgroup, and its engine in this process.
    fn pod(&self, uid: &str, model: &str) -> Pod {
        let cgroup = PodCgroup::new(&self.cgroup_root(), uid).ok();
        self.write("pod.yaml", &pod(&self.name, uid, self.ip(0)));
        let mut pod = Pod { cgroup, model: model.to_owned(), address: self.pod_address(), server: None };
        pod.start();
        pod
    }

    fn agent(&self, host: u8, more: &[&str]) -> Agent {
        let grpc = SocketAddr::new(self.ip(host), 9550);
        let http = SocketAddr::new(self.ip(host), 9551);
        let mut args = vec![
            ("--node-name", self.name.clone()),
            ("--resources", self.folder.path().join("resources").display().to_string()),
            ("--grpc-listen", grpc.to_string()),
            ("--http-listen", http.to_string()),
            ("--bpffs", self.pins().display().to_string()),
            ("--scrape-interval-ms", "50".into()),
            ("--gpu-interval-ms", "50".into()),
        ];
        if !more.contains(&"--cgroup-root") {
            args.push(("--cgroup-root", self.cgroup_root().display().to_string()));
        }
        let args = args
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .chain(more.iter().map(ToString::to_string))
            .collect::<Vec<_>>();
        let scenario = self.scenario().display().to_string();
        let name = format!("agent-{host}");
        let process = Process::start(
            &name,
            &program("forebay-agent").unwrap(),
            &args,
            &[("FOREBAY_NVML_SCENARIO", scenario)],
            &self.folder.path().join("logs"),
            None,
        )
        .unwrap();
        let agent = Agent { process, grpc, http };
        eventually("the agent is ready", || {
            get(agent.http, "/readyz").is_ok_and(|(status, _)| status == 200)
        });
        agent
    }

    fn scenario(&self) -> PathBuf {
        self.folder.path().join("gpus.json")
    }

    fn write_scenario(&self, gpus: &Value) {
        let new = self.folder.path().join("gpus.new");
        fs::write(&new, gpus.to_string()).unwrap();
        fs::rename(&new, self.scenario()).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.bpffs.take());
        let _ = fs::remove_dir(self.cgroup_root());
    }
}

struct Pod {
    cgroup: Option<PodCgroup>,
    model: String,
    address: SocketAddr,
    server: Option<Server>,
}

impl Pod {
    fn start(&mut self) {
        let listener = match &self.cgroup {
            Some(cgroup) => cgroup.listen(self.address),
            None => TcpListener::bind(self.address),
        };
        let truth = TcpListener::bind((self.address.ip(), 7999)).unwrap();
        let tokio = |listener: TcpListener| {
            listener.set_nonblocking(true).unwrap();
            tokio::net::TcpListener::from_std(listener).unwrap()
        };
        let options = ServerOptions {
            engine: engine(),
            models: vec![self.model.clone()],
            metrics_lag: Duration::from_millis(1),
            sse_keep_alive: None,
            speed_file: None,
        };
        self.server = Some(Server::start(tokio(listener.unwrap()), tokio(truth), options).unwrap());
    }

    /// Sends one request and reads the complete response: a close with unread bytes resets the connection, and the
    /// request may then count as aborted.
    fn serve(&self) {
        let body = json!({ "model": self.model, "prompt": "a", "max_tokens": 1 });
        let body = format!("{:60}", body.to_string());
        let head = POST.replace("60", &body.len().to_string());
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    }
}

fn engine() -> EngineOptions {
    EngineOptions {
        max_num_seqs: 8,
        max_num_queued_reqs: None,
        max_model_len: 2048,
        block_size: 16,
        num_gpu_blocks: 64,
        prefill_tokens_per_second: 1_000_000,
        token_interval: Duration::from_millis(1),
        steps: None,
    }
}

struct Agent {
    process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Agent {
    fn list(&self, subject: &str) -> Vec<Value> {
        let output = Command::new(program("forebay").unwrap())
            .args([subject, "-o", "json", "--agents", &self.grpc.to_string()])
            .output()
            .unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    fn pod(&self) -> Value {
        self.list("pods").into_iter().next().unwrap_or_default()
    }

    /// Waits until the report of the only pod satisfies `condition`. Returns the report.
    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut pod = Value::Null;
        eventually(what, || {
            pod = self.pod();
            condition(&pod)
        });
        pod
    }
}

fn pool() -> String {
    "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: pool, namespace: a}\n\
     spec:\n  selector: {matchLabels: {app: pool}}\n  targetPorts: [{number: 8000}]\n  \
     endpointPickerRef: {name: epp, port: {number: 9002}}\n"
        .into()
}

fn pod(node: &str, uid: &str, ip: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: engine, namespace: a, uid: {uid}, labels: {{app: pool}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: main, image: local}}]}}\n\
         status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_engine_outage_and_recovery() {
    let node = Node::new("engine");
    let mut pod = node.pod("00000000-0000-4000-8000-000000000001", "m");
    let agent = node.agent(1, &[]);
    let report = agent.until("the engine's values", |pod| pod["engine"]["models"][0]["id"] == "m");
    assert_eq!((&report["engine"]["running"], &report["engineOff"]), (&json!(0), &Value::Null));
    assert_eq!((&report["name"], &report["port"]), (&json!("engine"), &json!(8000)));

    pod.server = None;
    let report = agent.until("the reason of the outage", |pod| pod["engineOff"].is_string());
    assert_eq!(report["engine"], Value::Null, "no stale values");
    assert!(report["engineOff"].as_str().unwrap().contains("cannot connect"), "{report}");
    pod.start();
    agent.until("the engine values after recovery", |pod| {
        pod["engine"]["running"] == 0 && pod["engineOff"].is_null()
    });
    let log = agent.process.log();
    assert_eq!(
        log.matches("cannot scrape the engine").count(),
        1,
        "one log line, not one for each scrape: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn separates_pods_with_the_same_address() {
    let node = Node::new("replaced");
    let first = node.pod("00000000-0000-4000-8000-000000000001", "old");
    let agent = node.agent(1, &[]);
    agent.until("the old model", |pod| pod["engine"]["models"][0]["id"] == "old");
    first.serve();
    if node.counts {
        agent.until("a request", |pod| pod["kernel"]["finished"] == 1);
    }
    drop(first);

    let second = node.pod("00000000-0000-4000-8000-000000000002", "new");
    let report = agent.until("the new pod", |pod| {
        pod["uid"] == "00000000-0000-4000-8000-000000000002" && !pod["engine"]["models"][0].is_null()
    });
    assert_eq!(report["engine"]["models"][0]["id"], "new", "models of the old pod are dropped");
    if !node.counts {
        return println!("skipped: kernel measurement is not available");
    }
    let report = agent.until("its own counts", |pod| pod["kernel"]["started"].is_u64());
    assert_eq!(report["kernel"]["started"], 0);
    second.serve();
    agent.until("its own request", |pod| pod["kernel"]["finished"] == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_recreated_cgroup() {
    let node = Node::new("anew");
    if !node.counts {
        return println!("skipped: kernel measurement is not available");
    }
    let uid = "00000000-0000-4000-8000-000000000001";
    let mut pod = node.pod(uid, "m");
    let agent = node.agent(1, &[]);
    agent.until("the pod is watched", |pod| pod["kernel"]["started"] == 0);
    pod.server = None;
    pod.cgroup = None;
    let report = agent.until("the pod is no longer measured", |pod| pod["kernelOff"].is_string());
    assert!(report["kernelOff"].as_str().unwrap().contains("cgroup"), "{report}");
    pod.cgroup = Some(PodCgroup::new(&node.cgroup_root(), uid).unwrap());
    pod.start();
    agent.until("the pod is watched again", |pod| pod["kernel"]["started"] == 0);
    pod.serve();
    agent.until("its request", |pod| pod["kernel"]["finished"] == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_a_sandbox_is_not_reported_as_idle() {
    let node = Node::new("sandbox");
    if !node.counts {
        return println!("skipped: kernel measurement is not available");
    }
    let agent = node.agent(1, &[]);
    for (class, is_sandbox) in [("gvisor", true), ("nvidia", false)] {
        let uid = format!("00000000-0000-4000-8000-00000000000{}", u8::from(is_sandbox));
        let cgroup = PodCgroup::new(&node.cgroup_root(), &uid).unwrap();
        let manifest = pod(&node.name, &uid, node.ip(0));
        node.write("pod.yaml", &manifest.replace("spec: {", &format!("spec: {{runtimeClassName: {class}, ")));
        // The cgroup of a sandbox exists too, without the sockets.
        let (cgroup, beside) = if is_sandbox { (None, Some(cgroup)) } else { (Some(cgroup), None) };
        let mut pod = Pod { cgroup, model: "m".into(), address: node.pod_address(), server: None };
        pod.start();
        if is_sandbox {
            let report = agent.until("the reason", |pod| {
                pod["kernelOff"].as_str().is_some_and(|off| off.contains("runs the pod in a sandbox"))
            });
            assert!(report["kernelOff"].as_str().unwrap().contains("runtime class gvisor"), "{report}");
            assert!(report["kernel"].is_null(), "{report}");
        } else {
            agent.until("the pod is measured", |pod| pod["kernel"]["started"].is_u64());
            pod.serve();
            agent.until("its request", |pod| pod["kernel"]["finished"] == 1);
        }
        drop((pod, beside));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn second_agent_with_the_same_pins_counts_separately() {
    let node = Node::new("second");
    if !node.counts {
        return println!("skipped: kernel measurement is not available");
    }
    let pod = node.pod("00000000-0000-4000-8000-000000000001", "m");
    let mut first = node.agent(1, &[]);
    first.until("the pod is watched", |pod| pod["kernel"]["started"] == 0);
    let second = node.agent(2, &[]);
    second.until("the pod is watched", |pod| pod["kernel"]["started"] == 0);
    assert!(second.process.log().contains("another agent uses"), "{}", second.process.log());
    pod.serve();
    for agent in [&first, &second] {
        agent.until("the request", |pod| pod["kernel"]["finished"] == 1);
    }
    assert!(first.process.stop().unwrap().success());
    assert!(!node.pins().exists());
    pod.serve();
    second.until("one more", |pod| pod["kernel"]["finished"] == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_engines_without_cgroups() {
    let node = Node::new("nocgroup");
    let _pod = node.pod("00000000-0000-4000-8000-000000000001", "m");
    let agent = node.agent(1, &["--cgroup-root", "/nonexistent"]);
    let report = agent.until("the engine's values", |pod| pod["engine"]["running"] == 0);
    assert_eq!(report["kernel"], Value::Null);
    let node = agent.list("nodes").remove(0);
    let reasons = (&report["kernelOff"], &node["kernelOff"]);
    assert!(reasons.0.is_string() || reasons.1.is_string(), "a reason is reported: {reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_removes_pins_unless_they_are_kept() {
    let node = Node::new("sigterm");
    let pod = node.pod("00000000-0000-4000-8000-000000000001", "m");
    for (more, stay) in [(&[][..], false), (&["--keep-pins"][..], true)] {
        let mut agent = node.agent(1, more);
        agent.until("the engine's values", |pod| pod["engine"]["running"] == 0);
        if node.counts {
            agent.until("the pod is watched", |pod| pod["kernel"]["started"].is_u64());
            assert!(node.pins().exists());
        }
        // A client that never reads must not delay the shutdown.
        let mut idle = TcpStream::connect(agent.grpc).unwrap();
        idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let status = agent.process.stop().expect("the agent exits in time");
        assert!(status.success(), "{status}: {}", agent.process.log_tail());
        assert_eq!(node.pins().exists(), stay && node.counts);
    }
    if !node.counts {
        return println!("skipped: kernel measurement is not available");
    }
    // Counted while no agent was running.
    pod.serve();
    let agent = node.agent(1, &[]);
    agent.until("the counts from the pinned maps", |pod| pod["kernel"]["finished"] == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_gpu_lost_at_start_and_limits_xid_log_lines() {
    let library = program("libnvidia_ml.so").unwrap();
    if !library.exists() {
        return println!("skipped: the fake NVML library is not built");
    }
    let node = Node::new("gpus");
    let gpu = |uuid: &str, lost: bool, xids: &[u64]| json!({ "uuid": uuid, "name": "N", "power_mw": 1, "lost": lost, "xids": xids });
    node.write_scenario(&json!([gpu("GPU-0", true, &[]), gpu("GPU-1", false, &[])]));
    let agent = node.agent(1, &["--nvml-library", library.to_str().unwrap()]);
    let health = |index: usize| {
        let gpus = agent.list("gpus");
        gpus.get(index).map(|gpu| (gpu["uuid"].clone(), gpu["health"].clone()))
    };
    eventually("the lost GPU is reported", || health(0) == Some(("index-0".into(), "lost".into())));
    assert_eq!(health(1), Some(("GPU-1".into(), "ok".into())));

    let storm = vec![31; 2000];
    node.write_scenario(&json!([gpu("GPU-0", true, &[]), gpu("GPU-1", false, &storm)]));
    eventually("every XID is counted", || agent.list("gpus")[1]["xidErrors"] == 2000);
    let lines = agent.process.log().matches("reported an XID error").count();
    assert_eq!(lines, 1, "{}", agent.process.log_tail());

    // The lost GPU returns, and a new one appears.
    node.write_scenario(&json!([
        gpu("GPU-0", false, &[]),
        gpu("GPU-1", false, &storm),
        gpu("GPU-2", false, &[])
    ]));
    eventually("all three GPUs are reported", || {
        let gpus = agent.list("gpus");
        gpus.iter().map(|gpu| gpu["uuid"].as_str().unwrap().to_owned()).eq(["GPU-0", "GPU-1", "GPU-2"])
    });
    node.write_scenario(&json!([
        gpu("GPU-0", false, &[]),
        gpu("GPU-1", false, &storm),
        gpu("GPU-2", false, &[79]),
    ]));
    eventually("XIDs of the new GPU are reported", || health(2) == Some(("GPU-2".into(), "lost".into())));
}
