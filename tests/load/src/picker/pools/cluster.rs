//! The manifests of the pools, their pods and the agents.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::Path,
};

use anyhow::Result;
use forebay_resources::{InferencePool, ObjectKey, Pod};

use super::{AGENTS, PODS_PER_POOL, POOLS};

const NAMESPACE: &str = "bench";
/// Port of the pods.
const PORT: u16 = 8000;

pub(super) fn pool(number: usize) -> ObjectKey {
    ObjectKey::new(NAMESPACE, format!("pool-{number}"))
}

pub(super) fn pod(pool: usize, number: usize) -> ObjectKey {
    ObjectKey::new(NAMESPACE, format!("pool-{pool}-{number}"))
}

pub(super) fn address(pool: usize, pod: usize) -> SocketAddr {
    let [high, low] = u16::try_from(pool).unwrap_or(u16::MAX).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, high, low, u8::try_from(pod + 1).unwrap_or(u8::MAX)), PORT))
}

pub(super) fn addresses(pool: usize) -> Vec<SocketAddr> {
    (0..PODS_PER_POOL).map(|pod| address(pool, pod)).collect()
}

/// Pool and number of the pods on the node of an agent.
pub(super) fn pods_of(agent: usize) -> impl Iterator<Item = (usize, usize)> {
    (agent..POOLS * PODS_PER_POOL).step_by(AGENTS).map(|pod| (pod / PODS_PER_POOL, pod % PODS_PER_POOL))
}

pub(super) fn agent_ip(agent: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, u8::try_from(agent + 1).unwrap_or(u8::MAX))
}

pub(super) fn write(folder: &Path) -> Result<()> {
    let mut text = String::new();
    for agent in 0..AGENTS {
        pod_manifest(
            &mut text,
            &format!("agent-{agent}"),
            "app.kubernetes.io/name: forebay-agent",
            &agent_ip(agent).to_string(),
        )?;
    }
    for number in 0..POOLS {
        write!(
            text,
            "---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: pool-{number}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: pool-{number}}}}}
  targetPorts: [{{number: {PORT}}}]
  endpointPickerRef: {{name: pool-{number}-epp, port: {{number: 9002}}}}
"
        )?;
        for pod_number in 0..PODS_PER_POOL {
            let name = pod(number, pod_number).name;
            let ip = address(number, pod_number).ip().to_string();
            pod_manifest(&mut text, &name, &format!("app: pool-{number}"), &ip)?;
        }
    }
    Ok(fs::write(folder.join("all.yaml"), text)?)
}

fn pod_manifest(text: &mut String, name: &str, label: &str, ip: &str) -> Result<()> {
    Ok(write!(
        text,
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {NAMESPACE}, uid: {name}, labels: {{{label}}}}}
spec: {{nodeName: bench, containers: [{{name: main, image: local}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )?)
}

pub(super) fn on_other_port(pool: &InferencePool) -> InferencePool {
    let mut pool = pool.clone();
    for port in &mut pool.spec.target_ports {
        port.number = NonZeroU16::MAX;
    }
    pool
}

pub(super) fn not_ready(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
    for condition in conditions.into_iter().flatten() {
        condition.status = "False".to_owned();
    }
    pod
}
