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
    assert!(addresses("epp", 19002).is_empty(), "19002 is no port of the Service");
    assert!(addresses("gone", 80).is_empty());
}
