use super::snapshot_of;
use crate::ObjectKey;

const POOL: &str = "
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: qwen, namespace: llm-d }
spec:
  selector: { matchLabels: { app: qwen, tier: gpu } }
  targetPorts: [{ number: 8000 }, { number: 8001 }]
";

fn pod(name: &str, metadata: &str, labels: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, uid: uid-{name}, labels: {{ {labels} }}, {metadata} }}\n\
         spec: {{ nodeName: node-a, containers: [] }}\nstatus: {{ {status} }}\n"
    )
}

#[tokio::test]
async fn lists_ready_pods_per_target_port() {
    const LABELS: &str = "app: qwen, tier: gpu, extra: x";
    let ready = |ip: &str| format!("podIP: {ip}, conditions: [{{ type: Ready, status: \"True\" }}]");
    let text = [
        POOL.to_owned(),
        pod("b", "namespace: llm-d", LABELS, &ready("10.0.0.2")),
        pod("a", "namespace: llm-d", LABELS, &ready("fd00::1")),
        pod("other-namespace", "namespace: else", LABELS, &ready("10.0.0.3")),
        pod("one-label-short", "namespace: llm-d", "app: qwen", &ready("10.0.0.4")),
        pod(
            "terminating",
            "namespace: llm-d, deletionTimestamp: 2026-01-01T00:00:00Z",
            LABELS,
            &ready("10.0.0.5"),
        ),
        pod(
            "not-ready",
            "namespace: llm-d",
            LABELS,
            "podIP: 10.0.0.6, conditions: [{ type: Ready, status: \"False\" }, { type: Initialized, status: \"True\" }]",
        ),
        pod("no-conditions", "namespace: llm-d", LABELS, "podIP: 10.0.0.7"),
        pod("no-address", "namespace: llm-d", LABELS, "conditions: [{ type: Ready, status: \"True\" }]"),
    ];
    let snapshot = snapshot_of(&text.concat()).await;
    assert_eq!(snapshot.problems, []);
    let endpoints = snapshot.pool_endpoints(&ObjectKey::new("llm-d", "qwen"));
    let addresses: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["[fd00::1]:8000", "[fd00::1]:8001", "10.0.0.2:8000", "10.0.0.2:8001"]);
    assert_eq!(endpoints[0].pod, ObjectKey::new("llm-d", "a"));
    assert_eq!((endpoints[0].uid.as_str(), endpoints[0].node_name.as_deref()), ("uid-a", Some("node-a")));
    assert_eq!(endpoints[0].labels["extra"], "x");

    assert_eq!(snapshot.pool_endpoints(&ObjectKey::new("llm-d", "no-such-pool")), []);
}

#[tokio::test]
async fn resolves_service_port_by_slice_port_name() {
    let text = "
apiVersion: v1
kind: Service
metadata: { name: epp, namespace: llm-d }
spec: { ports: [{ name: grpc, port: 9002, targetPort: 19002 }, { name: health, port: 9003 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: epp-x, namespace: llm-d, labels: { kubernetes.io/service-name: epp } }
addressType: IPv4
ports: [{ name: health, port: 9003 }, { name: grpc, port: 19002 }]
endpoints:
- { addresses: [10.0.0.2] }
- { addresses: [10.0.0.1], conditions: { ready: true } }
- { addresses: [10.0.0.3], conditions: { ready: false } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: epp-y, namespace: llm-d, labels: { kubernetes.io/service-name: epp } }
addressType: IPv4
ports: [{ name: grpc, port: 19002 }]
endpoints: [{ addresses: [10.0.0.1] }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: epp-z, namespace: else, labels: { kubernetes.io/service-name: epp } }
addressType: IPv4
ports: [{ name: grpc, port: 19002 }]
endpoints: [{ addresses: [10.0.0.9] }]
---
apiVersion: v1
kind: Service
metadata: { name: unnamed, namespace: llm-d }
spec: { ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: unnamed-x, namespace: llm-d, labels: { kubernetes.io/service-name: unnamed } }
addressType: IPv4
ports: [{ name: '', port: 8080 }]
endpoints: [{ addresses: [10.0.1.1] }]
";
    let snapshot = snapshot_of(text).await;
    assert_eq!(snapshot.problems, []);
    let addresses = |name: &str, port: u16| {
        let found = snapshot.service_endpoints(&ObjectKey::new("llm-d", name), port);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses("epp", 9002), ["10.0.0.1:19002", "10.0.0.2:19002"]);
    assert_eq!(addresses("unnamed", 80), ["10.0.1.1:8080"]);
    assert!(addresses("epp", 19002).is_empty(), "19002 is not a port of the Service");
    assert!(addresses("gone", 80).is_empty());
}

fn addresses_of(snapshot: &crate::Snapshot) -> Vec<String> {
    let endpoints = snapshot.pool_endpoints(&ObjectKey::new("llm-d", "qwen"));
    endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn exclusion_of(snapshot: &crate::Snapshot, pod: &str) -> Option<String> {
    let pod = snapshot.pods.get(&ObjectKey::new("llm-d", pod)).unwrap();
    snapshot.exclusion(pod).map(|why| why.to_string())
}

const LABELS: &str = "app: qwen, tier: gpu";
const READY: &str = "conditions: [{ type: Ready, status: \"True\" }]";

#[tokio::test]
async fn a_pod_that_has_ended_gets_nothing_although_its_status_says_ready() {
    let text = [
        POOL.to_owned(),
        pod("failed", "namespace: llm-d", LABELS, &format!("phase: Failed, podIP: 10.0.0.1, {READY}")),
        pod("done", "namespace: llm-d", LABELS, &format!("phase: Succeeded, podIP: 10.0.0.2, {READY}")),
        pod("runs", "namespace: llm-d", LABELS, &format!("phase: Running, podIP: 10.0.0.3, {READY}")),
    ];
    let snapshot = snapshot_of(&text.concat()).await;
    assert_eq!(addresses_of(&snapshot), ["10.0.0.3:8000", "10.0.0.3:8001"]);
    assert_eq!(exclusion_of(&snapshot, "failed").as_deref(), Some("the Pod has ended"));
    assert_eq!(exclusion_of(&snapshot, "runs"), None);
}

#[tokio::test]
async fn an_address_belongs_to_the_newest_pod_that_has_not_ended() {
    let created = |time: &str| format!("namespace: llm-d, creationTimestamp: 2026-01-01T00:00:{time}Z");
    let at = |ip: &str| format!("podIP: {ip}, {READY}");
    let text = [
        POOL.to_owned(),
        pod("old", &created("01"), LABELS, &at("10.0.0.1")),
        pod("new-and-starting", &created("02"), "app: other", "podIP: 10.0.0.1"),
        pod("older", &created("01"), LABELS, &at("10.0.0.2")),
        pod("ended", &created("02"), LABELS, &format!("phase: Failed, {}", at("10.0.0.2"))),
        pod("same-a", "namespace: llm-d", LABELS, &at("10.0.0.3")),
        pod("same-b", "namespace: llm-d", LABELS, &at("10.0.0.3")),
    ]
    .concat();
    let node_network = |name: &str, time: &str| {
        pod(name, &created(time), LABELS, &at("192.168.0.1"))
            .replace("containers: []", "hostNetwork: true, containers: []")
    };
    let text = [text, node_network("host-a", "01"), node_network("host-b", "02")].concat();
    let snapshot = snapshot_of(&text).await;
    assert_eq!(snapshot.problems, []);
    let mut addresses = addresses_of(&snapshot);
    addresses.retain(|address| address.ends_with(":8000"));
    assert_eq!(addresses, ["192.168.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]);
    let why = exclusion_of(&snapshot, "old").unwrap();
    let rule = "which started later or at the same time, has its address";
    assert_eq!(why, format!("the Pod llm-d/new-and-starting, {rule}"));
    assert_eq!(exclusion_of(&snapshot, "host-a"), None, "it shares the address of its node");
}

/// Times of the API have seconds.
#[tokio::test]
async fn an_address_belongs_to_one_of_the_pods_that_started_in_the_same_second() {
    let metadata = "namespace: llm-d, creationTimestamp: 2026-01-01T00:00:01Z";
    let at = |ip: &str| format!("podIP: {ip}, {READY}");
    let started = |time: &str, ip: &str| format!("startTime: 2026-01-01T{time}Z, {}", at(ip));
    let of = |name: &str, status: &str| pod(name, metadata, LABELS, status);
    let text = [
        POOL.replace(", { number: 8001 }", ""),
        of("a-not-ready", "podIP: 10.0.0.1"),
        of("b", &at("10.0.0.1")),
        of("c", &at("10.0.0.1")),
        pod("z-of-no-pool", metadata, "app: other", &at("10.0.0.1")),
        // It waited for a node while the other one was created and started.
        of("d-waited", &started("01:00:00", "10.0.0.2")),
        pod(
            "e-created-later",
            "namespace: llm-d, creationTimestamp: 2026-01-01T00:30:00Z",
            LABELS,
            &started("00:30:00", "10.0.0.2"),
        ),
    ];
    let (first, rest) = text.split_first().unwrap();
    let mut reversed = rest.to_vec();
    reversed.reverse();
    for order in [rest.to_vec(), reversed] {
        let snapshot = snapshot_of(&(first.clone() + &order.concat())).await;
        assert_eq!(snapshot.problems, []);
        let endpoints = snapshot.pool_endpoints(&ObjectKey::new("llm-d", "qwen"));
        let pods: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.pod.name.as_str()).collect();
        assert_eq!(pods, ["b", "d-waited"]);
        for (pod, holder) in [("c", "b"), ("z-of-no-pool", "b"), ("e-created-later", "d-waited")] {
            let why = exclusion_of(&snapshot, pod).unwrap();
            assert!(why.contains(&format!("llm-d/{holder},")), "{pod}: {why}");
        }
        assert_eq!(exclusion_of(&snapshot, "a-not-ready").as_deref(), Some("the Pod is not Ready"));
    }
}

#[tokio::test]
async fn only_pods_that_generate_tokens_are_endpoints() {
    let roles =
        ["prefill", "encode", "encode-prefill", "decode", "prefill-decode", "both", "encode-prefill-decode"];
    let mut text = POOL.replace(", { number: 8001 }", "");
    for (number, role) in roles.iter().enumerate() {
        let labels = format!("{LABELS}, llm-d.ai/role: {role}");
        text += &pod(role, "namespace: llm-d", &labels, &format!("podIP: 10.0.0.{number}, {READY}"));
    }
    let snapshot = snapshot_of(&text).await;
    assert_eq!(snapshot.pool_endpoints(&ObjectKey::new("llm-d", "qwen")).len(), 4);
    let why = exclusion_of(&snapshot, "prefill").unwrap();
    assert_eq!(why, "the label llm-d.ai/role is prefill: the Pod generates no tokens");
    assert_eq!(exclusion_of(&snapshot, "both"), None);
}

#[tokio::test]
async fn a_pod_may_serve_on_a_part_of_the_ports() {
    let annotated = |name: &str, annotations: &str, ip: &str| {
        let metadata = format!("namespace: llm-d, annotations: {{ {annotations} }}");
        pod(name, &metadata, LABELS, &format!("podIP: {ip}, {READY}"))
    };
    let text = [
        POOL.to_owned(),
        annotated("a", "llm-d.ai/active-ports: \"8001, 9000\"", "10.0.0.1"),
        annotated("b", "inference.networking.k8s.io/active-ports: \"8000\"", "10.0.0.2"),
        annotated("c", "llm-d.ai/active-ports: \"\"", "10.0.0.3"),
    ];
    let snapshot = snapshot_of(&text.concat()).await;
    assert_eq!(addresses_of(&snapshot), ["10.0.0.1:8001", "10.0.0.2:8000"]);
}
