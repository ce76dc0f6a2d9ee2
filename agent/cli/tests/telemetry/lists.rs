//! Which pods the lists show, in which order and format; completions and man pages.

use std::{fs, path::Path};

use crate::{agent::Agent, program::forebay};
use forebay_apiserver::{ApiServer, open_crd, store::namespace};
use forebay_test_terminal::{Tmux, is_installed};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use tokio::{process::Command, task::spawn_blocking};

/// Names of the items.
async fn names(arguments: &[&str]) -> Vec<String> {
    let (code, document, error) = forebay(&[arguments, &["-o", "yaml"]].concat()).await;
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    let document: Value = serde_yaml_ng::from_str(&document).unwrap();
    let items = document["items"].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// Manifests of the agent, of its pods, and of their pool.
fn manifests(folder: &Path) {
    let manifests = "
apiVersion: v1
kind: Pod
metadata: { name: agent, namespace: infra, labels: { app.kubernetes.io/name: forebay-agent } }
status: { podIP: 127.0.0.1, phase: Running }
---
apiVersion: v1
kind: Pod
metadata: { name: idle, namespace: llm-d, labels: { app: qwen, tier: a } }
---
apiVersion: v1
kind: Pod
metadata: { name: zealous, namespace: llm-d, labels: { app: qwen, tier: b } }
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: chat, namespace: llm-d }
spec: { selector: { matchLabels: { tier: b } }, targetPorts: [{ number: 8000 }] }
";
    fs::write(folder.join("all.yaml"), manifests).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_gpus_are_selected_as_in_kubectl() {
    let agent = Agent::start().await;
    let folder = tempfile::tempdir().unwrap();
    manifests(folder.path());
    let (resources, port) = (folder.path().to_str().unwrap().to_owned(), agent.address.port().to_string());
    let target = ["--resources", &resources, "--agent-port", &port];
    let table: &[(&[&str], &[&str])] = &[
        (&["pods"], &["idle", "zealous"]),
        (&["pods", "-A"], &["idle", "zealous"]),
        (&["pods", "-l", "tier=b"], &["zealous"]),
        (&["pods", "-l", "app=qwen,tier!=b"], &["idle"]),
        (&["pods", "-l", "tier=b", "-n", "infra"], &[]),
        (&["pods", "-n", "llm-d", "--node", "node-1"], &["idle", "zealous"]),
        (&["pods", "--node", "node-2"], &[]),
        (&["gpus"], &["NVIDIA H100"]),
        (&["gpus", "-l", "tier=b"], &["NVIDIA H100"]),
        (&["gpus", "-l", "tier=a"], &[]),
        (&["pods", "--sort", "kernel.inFlight"], &["idle", "zealous"]),
        (&["pods", "--sort", "ip"], &["zealous", "idle"]),
    ];
    for (arguments, expected) in table {
        assert_eq!(names(&[*arguments, &target].concat()).await, *expected, "{arguments:?}");
    }
    for (arguments, problem) in [
        (&["pods", "-A", "-n", "a"][..], "cannot be used with"),
        (&["pods", "-l", "a in (b)"], "sets (in, notin) are not supported"),
        (&["pods", "--at", "5s"], "--replay"),
        (&["pods", "--sort", "colour"], "no item has the field colour"),
    ] {
        let (code, _, error) = forebay(&[arguments, &target].concat()).await;
        assert!(code != Some(0) && error.contains(problem), "{arguments:?}: {error}");
    }
    let agents = agent.address.to_string();
    let (code, _, error) = forebay(&["pods", "-l", "tier=b", "--agents", &agents]).await;
    assert!(code != Some(0) && error.contains("--selector needs the labels"), "{error}");

    if is_installed() {
        spawn_blocking(move || {
            let tmux = Tmux::start(120, 24);
            let forebay = env!("CARGO_BIN_EXE_forebay");
            tmux.command(&format!("{forebay} top --resources {resources} --agent-port {port}"));
            tmux.wait_for("both pods", |screen| screen.contains("2 pods"));
            tmux.write("ggg");
            tmux.wait_for("groups by pool", |screen| {
                screen.contains("chat: 1 pod, 7 in flight")
                    && screen.contains("no pool known: 1 pod, 1 in flight")
            });
            tmux.write("q");
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_a_cluster() {
    let Some(server) = ApiServer::start().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    let pools = open_crd("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools");
    server.install([pools]).await.unwrap();
    namespace(&client, "llm-d").await;
    let pods = Api::<Pod>::namespaced(client.clone(), "llm-d");
    for (name, tier) in [("idle", "a"), ("zealous", "b")] {
        let pod = json!({
            "metadata": { "name": name, "labels": { "tier": tier } },
            "spec": { "containers": [{ "name": "engine", "image": "engine" }] },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let agent = Agent::start().await;
    let agents = agent.address.to_string();
    let kubeconfig = server.kubeconfig().unwrap();
    let cluster = ["--agents", &agents, "--kubeconfig", kubeconfig.to_str().unwrap()];
    assert_eq!(names(&[&["pods", "-l", "tier=b"][..], &cluster].concat()).await, ["zealous"]);
    assert_eq!(names(&[&["pods", "-l", "!tier"][..], &cluster].concat()).await, [""; 0]);
}

#[tokio::test]
async fn completions_and_man_pages_name_every_command() {
    let (code, script, _) = forebay(&["completions", "bash"]).await;
    assert_eq!(code, Some(0));
    for word in ["top", "record", "--replay", "--selector"] {
        assert!(script.contains(word), "{word}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    fs::write(&file, script).unwrap();
    let status = Command::new("bash").arg("-n").arg(file).status().await.unwrap();
    assert!(status.success(), "bash reads it");

    let pages = folder.path().join("a/b");
    assert_eq!(forebay(&["man", pages.to_str().unwrap()]).await.0, Some(0));
    for name in ["forebay.1", "forebay-top.1", "forebay-record.1", "forebay-check.1"] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.contains(".TH forebay") && page.contains(".SH OPTIONS"), "{name}: {page}");
    }
    let (code, _, error) = forebay(&["man", "/dev/null/pages"]).await;
    assert!(code == Some(1) && error.contains("/dev/null/pages"), "{error}");
}
