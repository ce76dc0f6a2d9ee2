//! A cluster with thousands of routes and pods: start time and memory of a gateway, and delay of changes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints its measurements"
)]

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use forebay_cluster_tests::{
    Cluster, Durations, Objects, Probe, Reached, TIMEOUT, chat, cluster,
    guide::{LLAMA, MODELS, QWEN, SYSTEM},
    until,
};
use serde_json::{Value, json};
use tokio::time::sleep;

const ROUTES: u32 = 5_000;
const POOLS: u32 = 500;
const PODS: u32 = 10_000;
const NAMESPACE: &str = "scale";
/// Number of measured changes.
const CHANGES: u32 = 10;
const PACE: Duration = Duration::from_millis(5);
const GATEWAY: &str = "deployment/forebay-gateway";
const ADMIN_PORT: u16 = 9100;

#[test]
fn starts_and_applies_changes_with_thousands_of_routes() {
    let Some(cluster) = cluster() else { return };
    cluster.follow_the_guide(2, 1);
    let gateway = cluster.gateway_address();
    cluster.kubectl(&format!("scale {GATEWAY} -n {SYSTEM} --replicas=0"));
    cluster.pods_ready(&format!("-n {SYSTEM} -l app.kubernetes.io/name=forebay-gateway"), 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let objects = runtime.block_on(Objects::connect()).unwrap();
    let began = Instant::now();
    runtime.block_on(fill(&objects)).unwrap();
    println!(
        "{ROUTES} HTTPRoutes, {POOLS} InferencePools, {PODS} Pods created in {:.0} s",
        began.elapsed().as_secs_f64()
    );

    cluster.kubectl(&format!("scale {GATEWAY} -n {SYSTEM} --replicas=1"));
    let (pid, admin) = until("the gateway pod is running", || gateway_process(&cluster));
    until("the gateway is ready", || match forebay_e2e::harness::get(admin, "/readyz") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    println!("ready {:.1} s after the start of its process", age(pid).as_secs_f64());
    println!("memory when ready: {}", memory(pid));
    for model in [QWEN, LLAMA] {
        until(&format!("{model} is served"), || match chat(gateway, model) {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let ready = Instant::now();
    let routes = u64::from(ROUTES) + 2;
    until("all routes are attached", || match cluster.attached_routes()? {
        attached if attached == routes => Ok(()),
        other => Err(format!("{other} attached")),
    });
    let last = object("HTTPRoute", &name(ROUTES - 1));
    until("every route has its status", || {
        let route = runtime.block_on(objects.get(&last)).map_err(|error| error.to_string())?;
        let parents = &route["status"]["parents"];
        if parents.is_array() { Ok(()) } else { Err(route["status"].to_string()) }
    });
    println!("statuses written {:.1} s after it was ready", ready.elapsed().as_secs_f64());
    let appeared = runtime.block_on(change(&objects, gateway));
    println!("new route, from write to first use: {appeared}");
    println!("memory after the changes: {}", memory(pid));

    let began = Instant::now();
    runtime.block_on(clear(&objects)).unwrap();
    until("the namespace is deleted", || match cluster.get(&format!("namespace {NAMESPACE}")) {
        Err(_) => Ok(()),
        Ok(namespace) => Err(namespace["status"].to_string()),
    });
    println!("all deleted in {:.0} s", began.elapsed().as_secs_f64());
    cluster.kubectl(&format!("scale {GATEWAY} -n {SYSTEM} --replicas=2"));
    cluster.kubectl(&format!("rollout status {GATEWAY} -n {SYSTEM} --timeout=120s"));
    until("only the guide's routes are attached", || match cluster.attached_routes()? {
        2 => Ok(()),
        other => Err(format!("{other} attached")),
    });
}

fn name(number: u32) -> String {
    format!("model-{number}")
}

fn pod_name(number: u32) -> String {
    format!("pod-{number}")
}

fn object(kind: &str, name: &str) -> Value {
    let api_version = match kind {
        "HTTPRoute" => "gateway.networking.k8s.io/v1",
        "InferencePool" => "inference.networking.k8s.io/v1",
        _ => "v1",
    };
    let metadata = match kind {
        "Namespace" => json!({ "name": name }),
        _ => json!({ "name": name, "namespace": NAMESPACE }),
    };
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata })
}

fn with(mut object: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        object[*name] = value.clone();
    }
    object
}

/// A pod that is never scheduled, with a Ready status.
fn pod(number: u32) -> Value {
    let ip = format!("10.{}.{}.{}", 64 + (number >> 16), number >> 8 & 255, number & 255);
    let mut pod = object("Pod", &pod_name(number));
    pod["metadata"]["labels"] = json!({ "app": name(number % POOLS) });
    let spec = json!({
        "schedulingGates": [{ "name": "forebay.dev/never" }],
        "automountServiceAccountToken": false,
        "containers": [{ "name": "vllm", "image": "none", "ports": [{ "containerPort": 8000 }] }],
    });
    let status = json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    });
    with(pod, &[("spec", spec), ("status", status)])
}

fn pool(number: u32) -> Value {
    let spec = json!({
        "selector": { "matchLabels": { "app": name(number) } },
        "targetPorts": [{ "number": 8000 }],
        "endpointPickerRef": { "name": "picker", "port": { "number": 9002 } },
    });
    with(object("InferencePool", &name(number)), &[("spec", spec)])
}

/// A route for the model `name` to a pool in the same namespace.
fn route(name: &str, pool: &str) -> Value {
    let spec = json!({
        "parentRefs": [{ "name": "inference-gateway", "namespace": SYSTEM }],
        "rules": [{
            "matches": [{ "headers": [{ "name": "X-Gateway-Model-Name", "value": name }] }],
            "backendRefs": [{ "group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool }],
        }],
    });
    with(object("HTTPRoute", name), &[("spec", spec)])
}

async fn fill(objects: &Objects) -> kube::Result<()> {
    objects.apply(&object("Namespace", NAMESPACE)).await?;
    let picker = with(object("Service", "picker"), &[("spec", json!({ "ports": [{ "port": 9002 }] }))]);
    objects.apply(&picker).await?;
    // The API server rejects pods until the namespace has its default service account.
    let account = object("ServiceAccount", "default");
    let deadline = Instant::now() + TIMEOUT;
    while objects.get(&account).await.is_err() && Instant::now() < deadline {
        sleep(PACE).await;
    }
    objects.create_all((0..POOLS).map(pool)).await?;
    objects.create_all((0..ROUTES).map(|number| route(&name(number), &name(number % POOLS)))).await?;
    objects.create_all((0..PODS).map(pod)).await
}

async fn clear(objects: &Objects) -> kube::Result<()> {
    objects.delete_all((0..ROUTES).map(|number| object("HTTPRoute", &name(number)))).await?;
    objects.delete_all((0..POOLS).map(|number| object("InferencePool", &name(number)))).await?;
    objects.delete_all((0..PODS).map(|number| object("Pod", &pod_name(number)))).await?;
    objects.delete(&object("Namespace", NAMESPACE)).await
}

/// Pid of the gateway on this machine, and its admin address.
fn gateway_process(cluster: &Cluster) -> Result<(u32, SocketAddr), String> {
    let pods = cluster.get(&format!("pods -n {SYSTEM} -l app.kubernetes.io/name=forebay-gateway"))?;
    let pod = &pods["items"][0];
    let uid = pod["metadata"]["uid"].as_str().ok_or("no pod yet")?;
    let ip = pod["status"]["podIP"].as_str().ok_or("no address yet")?;
    let processes = fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let pid = processes.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").contains(uid) && read("cmdline").contains("forebay-gateway")
    });
    let address = format!("{ip}:{ADMIN_PORT}").parse().map_err(|_| ip.to_owned())?;
    Ok((pid.ok_or("no process yet")?, address))
}

/// Age of a process (proc(5): field 22 of `stat`, start time after boot in 1/100 s).
fn age(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let began: f64 = after_name.split(' ').nth(19).unwrap().parse().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    Duration::from_secs_f64((uptime - began / 100.0).max(0.0))
}

fn memory(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mib = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        let kib: u64 = line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        kib / 1024
    };
    format!("{} MiB resident, {} MiB peak", mib("VmRSS:"), mib("VmHWM:"))
}

/// Adds routes to the pool of the guide, one after the other.
async fn change(objects: &Objects, gateway: SocketAddr) -> Durations {
    let probe = Probe::new(gateway);
    let mut appeared = Durations::default();
    for number in 0..CHANGES {
        let model = format!("late-{number}");
        let mut late = route(&model, "vllm-qwen3-06b");
        late["metadata"]["namespace"] = json!(MODELS);
        let began = Instant::now();
        objects.apply(&late).await.unwrap();
        while probe.reached(&model).await.unwrap() != Reached::Engine {
            assert!(began.elapsed() < TIMEOUT, "{model} has no route after {TIMEOUT:?}");
            sleep(PACE).await;
        }
        appeared.add(began.elapsed());
        objects.delete(&late).await.unwrap();
    }
    appeared
}
