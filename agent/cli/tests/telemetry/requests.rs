//! `forebay requests`: pods that no agent knows, and agents that appear, return and leave.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use crate::{agent::Agent, program::forebay, site::eventually};

/// A running `forebay requests -o json`.
struct Follower {
    _child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    _readers: JoinSet<()>,
}

impl Follower {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["requests", "-o", "json"]).args(arguments);
        command.env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent").kill_on_drop(true);
        for name in ["FOREBAY_AGENTS", "FOREBAY_RESOURCES", "KUBERNETES_SERVICE_HOST"] {
            command.env_remove(name);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut readers = JoinSet::new();
        let out = read(child.stdout.take().unwrap(), &mut readers);
        let err = read(child.stderr.take().unwrap(), &mut readers);
        Self { _child: child, out, err, _readers: readers }
    }

    async fn says(&self, text: &str) {
        eventually(&format!("{text:?} on standard error"), async || {
            self.err.lock().unwrap().contains(text).then_some(())
        })
        .await;
    }

    /// Ends requests on the agent until one with this status is shown. Returns its node.
    async fn shows(&self, agent: &Agent, status: u16) -> Value {
        eventually(&format!("a request with status {status}"), async || {
            agent.end_request(status);
            let shown = self.out.lock().unwrap().clone();
            let mut documents = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            documents.find(|it| it["status"] == status).map(|it| it["node"].clone())
        })
        .await
    }
}

fn read(pipe: impl AsyncRead + Unpin + Send + 'static, readers: &mut JoinSet<()>) -> Arc<Mutex<String>> {
    let text = Arc::<Mutex<String>>::default();
    let filled = Arc::clone(&text);
    readers.spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            *filled.lock().unwrap() += &(line + "\n");
        }
    });
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_agent_knows_is_an_error_that_names_the_nearest() {
    let agent = Agent::start().await;
    let agents = ["requests", "--agents", &agent.address.to_string()];
    let (code, out, err) = forebay(&[&agents[..], &["--pod", "zealos"]].concat()).await;
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(out.lines().count(), 1, "the header only: {out}");
    let expected = "forebay: no agent knows a pod zealos (nearest name: zealous); see `forebay pods`";
    assert!(err.contains(expected), "{err}");
    let (code, _, err) = forebay(&[&agents[..], &["--pod", "zealous", "-n", "other"]].concat()).await;
    assert!(code == Some(1) && err.contains("no agent knows a pod other/zealous; see"), "{code:?} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_waited_for_while_an_agent_does_not_respond() {
    let agent = Agent::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    drop(silent);
    let follower = Follower::start(&["--agents", &format!("{},{address}", agent.address), "--pod", "zealos"]);
    follower.says("no agent that responds knows a pod zealos (nearest name: zealous); waiting for 1").await;
    let _late = Agent::start_at(address, "node-2").await;
    follower.says("no agent knows a pod zealos (nearest name: zealous); see `forebay pods`").await;
}

/// The Pod of an agent in the folder.
fn manifest(folder: &Path, address: SocketAddr) -> std::path::PathBuf {
    let ip = address.ip();
    let file = folder.join(format!("{ip}.yaml"));
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: agent-{ip}, namespace: infra, labels: {{app.kubernetes.io/name: \
         forebay-agent}}}}\nstatus: {{podIP: {ip}, phase: Running}}\n"
    );
    fs::write(&file, pod).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_appear_and_return_are_followed() {
    let mut first = Agent::start().await;
    let folder = tempfile::tempdir().unwrap();
    manifest(folder.path(), first.address);
    let (resources, port) = (folder.path().to_str().unwrap(), first.address.port().to_string());
    let target = ["--resources", resources, "--agent-port", &port, "--pod", "zealous"];
    let follower = Follower::start(&target);
    follower.says("following the requests of 1 agent").await;
    assert_eq!(follower.shows(&first, 200).await, "node-1");

    let later: SocketAddr = ([127, 0, 0, 2], first.address.port()).into();
    let second = Agent::start_at(later, "node-2").await;
    let file = manifest(folder.path(), later);
    follower.says(&format!("new agent {later}")).await;
    assert_eq!(follower.shows(&second, 201).await, "node-2");

    first.stop().await;
    follower.says(&format!("agent {}: ", first.address)).await;
    let returned = Agent::start_at(first.address, "node-1").await;
    follower.says(&format!("following the requests of agent {}", first.address)).await;
    assert_eq!(follower.shows(&returned, 202).await, "node-1");

    fs::remove_file(file).unwrap();
    follower.says(&format!("agent {later} is gone")).await;
    eventually("no reader of the second", async || (!second.end_request(500)).then_some(())).await;
}
