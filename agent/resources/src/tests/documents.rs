use super::{load, snapshot_of, write};
use crate::{AppProtocol, FailureMode, ObjectKey, TrafficPhase};

const GUIDE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: inference-gateway
  namespace: agentgateway-system
spec:
  gatewayClassName: agentgateway-v2
  listeners:
  - protocol: HTTP
    port: 8080
    name: http
    allowedRoutes:
      namespaces:
        from: All
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata:
  name: bbr
  namespace: agentgateway-system
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: inference-gateway
  traffic:
    phase: PreRouting
    transformation:
      request:
        set:
        - name: X-Gateway-Base-Model-Name
          value: |
            {
              "Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B",
              "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
            }[json(request.body).model]
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: vllm-qwen3-06b, namespace: llm-d }
spec:
  selector: { matchLabels: { app: vllm-qwen3-06b } }
  targetPorts: [{ number: 8000 }]
  appProtocol: kubernetes.io/h2c
  endpointPickerRef: { name: vllm-qwen3-06b-epp, port: { number: 9002 }, failureMode: FailOpen }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: vllm-qwen3-06b, namespace: llm-d }
spec:
  parentRefs:
  - { group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway, namespace: agentgateway-system }
  rules:
  - matches:
    - headers: [{ type: Exact, name: X-Gateway-Base-Model-Name, value: Qwen/Qwen3-0.6B }]
      path: { type: PathPrefix, value: / }
    backendRefs:
    - { group: inference.networking.k8s.io, kind: InferencePool, name: vllm-qwen3-06b, weight: 1 }
    timeouts: { request: 300s }
---
apiVersion: v1
kind: Pod
metadata:
  name: ms-qwen-0
  namespace: llm-d
  uid: 0d3a
  labels: { app: vllm-qwen3-06b }
spec:
  nodeName: node-a
  containers: [{ name: vllm, image: vllm }]
status:
  podIP: 127.0.1.11
  phase: Running
  conditions: [{ type: Ready, status: "True" }]
"#;

#[tokio::test]
async fn reads_objects_of_guide() {
    let snapshot = snapshot_of(GUIDE).await;
    assert_eq!(snapshot.problems, []);

    let gateway = &snapshot.gateways[&ObjectKey::new("agentgateway-system", "inference-gateway")];
    assert_eq!(gateway.spec.gateway_class_name, "agentgateway-v2");
    assert_eq!(gateway.spec.listeners[0].port, 8080);

    let policy = &snapshot.agentgateway_policies[&ObjectKey::new("agentgateway-system", "bbr")];
    let traffic = policy.spec.traffic.as_ref().unwrap();
    assert_eq!(traffic.phase, TrafficPhase::PreRouting);
    let set = &traffic.transformation.as_ref().unwrap().request.as_ref().unwrap().set;
    assert_eq!(set[0].name, "X-Gateway-Base-Model-Name");
    assert!(set[0].value.starts_with("{\n") && set[0].value.ends_with("}[json(request.body).model]\n"));
    assert_eq!(policy.spec.target_refs[0].name, "inference-gateway");

    let pool = &snapshot.inference_pools[&ObjectKey::new("llm-d", "vllm-qwen3-06b")].spec;
    assert_eq!(pool.app_protocol, AppProtocol::H2c);
    let picker = pool.endpoint_picker_ref.as_ref().unwrap();
    assert_eq!((picker.kind.as_str(), picker.failure_mode), ("Service", FailureMode::FailOpen));
    assert_eq!(picker.port.unwrap().number.get(), 9002);

    let route = &snapshot.http_routes[&ObjectKey::new("llm-d", "vllm-qwen3-06b")].spec;
    let rule = &route.rules.as_ref().unwrap()[0];
    let header = &rule.matches.as_ref().unwrap()[0].headers.as_ref().unwrap()[0];
    assert_eq!(
        (header.name.as_str(), header.value.as_str()),
        ("X-Gateway-Base-Model-Name", "Qwen/Qwen3-0.6B")
    );
    let backend = &rule.backend_refs.as_ref().unwrap()[0];
    assert_eq!((backend.kind.as_deref(), backend.name.as_str()), (Some("InferencePool"), "vllm-qwen3-06b"));

    let pod = &snapshot.pods[&ObjectKey::new("llm-d", "ms-qwen-0")];
    assert_eq!(pod.status.as_ref().unwrap().pod_ip.as_deref(), Some("127.0.1.11"));
}

#[tokio::test]
async fn reports_bad_document_and_keeps_others() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "pools.yaml",
        "# a licence\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: { name: first, namespace: a }\n---\n\
         apiVersion: v1\nkind: ConfigMap\n  metadata: not yaml: at all\n---\n\
         apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: { name: qwen, namespace: llm-d }\n\
         spec: { selector: { matchLabels: { app: qwen } }, targetPorts: [{ number: 70000 }] }\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: { name: last }\n",
    );
    let (store, _provider) = load(folder.path()).await;
    let snapshot = store.snapshot();
    let names: Vec<String> = snapshot.config_maps.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a/first", "default/last"]);
    assert!(snapshot.inference_pools.is_empty());

    assert_eq!(snapshot.problems.len(), 2, "{:?}", snapshot.problems);
    let syntax = &snapshot.problems[0];
    assert_eq!((syntax.place.as_str(), &syntax.object), ("pools.yaml document 2 (line 7)", &None));
    let invalid = &snapshot.problems[1];
    assert_eq!(invalid.place, "pools.yaml document 3 (line 11)");
    assert_eq!(invalid.object.as_deref(), Some("InferencePool llm-d/qwen"));
    assert!(invalid.message.starts_with("spec.targetPorts[0].number: "), "{}", invalid.message);
}

#[tokio::test]
async fn rejects_what_an_api_server_rejects() {
    let pool = |spec: &str| {
        format!(
            "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{ name: p }}\nspec: {spec}\n"
        )
    };
    let cases = [
        (
            pool("{ selector: { matchLabels: {} }, targetPorts: [{ number: 1 }] }"),
            "matchLabels has 0 entries",
        ),
        (pool("{ selector: { matchLabels: { a: b } }, targetPorts: [] }"), "targetPorts has 0 entries"),
        (
            pool("{ selector: { matchLabels: { a: b } }, targetPorts: [{ number: 1 }, { number: 1 }] }"),
            "duplicate port",
        ),
        (
            pool(
                "{ selector: { matchLabels: { a: b } }, targetPorts: [{ number: 1 }], endpointPickerRef: { name: e } }",
            ),
            "endpointPickerRef.port is required",
        ),
        (pool("{ targetPorts: [{ number: 1 }] }"), "missing field `selector`"),
        ("kind: Pod\nmetadata: { name: p }\n".into(), "apiVersion and kind must be set"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n".into(), "metadata.name must be set"),
        ("apiVersion: gateway.networking.k8s.io/v2\nkind: Gateway\n".into(), "version v2 is not supported"),
        ("- just\n- a list\n".into(), "apiVersion and kind must be set"),
    ];
    for (text, reason) in cases {
        let snapshot = snapshot_of(&text).await;
        assert_eq!(snapshot.problems.len(), 1, "{text}");
        assert!(snapshot.problems[0].message.contains(reason), "{text}: {}", snapshot.problems[0]);
        assert!(
            snapshot.inference_pools.is_empty() && snapshot.pods.is_empty() && snapshot.gateways.is_empty()
        );
    }
}

#[tokio::test]
async fn keeps_first_of_duplicate_objects() {
    let map =
        |value| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: m }}\ndata: {{ k: {value} }}\n");
    let snapshot = snapshot_of(&format!("{}---\n{}", map("one"), map("two"))).await;
    let data = snapshot.config_maps[&ObjectKey::new("default", "m")].data.clone().unwrap();
    assert_eq!(data["k"], "one");
    assert_eq!(snapshot.problems[0].object.as_deref(), Some("ConfigMap m"));
}

#[tokio::test]
async fn ignores_unknown_kinds_and_reads_lists_and_json() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "a.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\nspec: nonsense\n",
    );
    write(
        folder.path(),
        "b.json",
        r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"in-list"}},
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{}}]}"#,
    );
    write(folder.path(), "c.json", "{");
    write(folder.path(), "notes.txt", "not: [a manifest");
    write(folder.path(), ".hidden.yaml", "not: [a manifest");
    let (store, _provider) = load(folder.path()).await;
    let snapshot = store.snapshot();
    assert!(snapshot.config_maps.contains_key(&ObjectKey::new("default", "in-list")));
    let places: Vec<&str> = snapshot.problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["b.json item 2", "c.json"]);
}

#[tokio::test]
async fn reads_objectives_and_rewrites_of_both_groups() {
    let snapshot = snapshot_of(
        "
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: { name: batch, namespace: llm-d }
spec: { priority: -1, poolRef: { name: qwen } }
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: { name: old, namespace: llm-d }
spec: { poolRef: { group: example.com, name: qwen } }
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: { name: canary, namespace: llm-d }
spec:
  poolRef: { name: qwen }
  rules:
  - matches: [{ model: { value: food } }]
    targets: [{ modelRewrite: food-1, weight: 90 }, { modelRewrite: food-2, weight: 10 }]
  - targets: [{ modelRewrite: base }]
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: { name: half, namespace: llm-d }
spec: { poolRef: { name: qwen }, rules: [{ targets: [{ modelRewrite: a, weight: 1 }, { modelRewrite: b }] }] }
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: { name: nowhere, namespace: llm-d }
spec: { poolRef: { name: qwen }, rules: [{ targets: [] }] }
",
    )
    .await;
    let batch = &snapshot.inference_objectives[&ObjectKey::new("llm-d", "batch")].spec;
    assert_eq!(batch.priority, Some(-1));
    assert!(batch.pool_ref.is_pool("qwen") && !batch.pool_ref.is_pool("other"));
    let old = &snapshot.inference_objectives[&ObjectKey::new("llm-d", "old")].spec;
    assert_eq!(old.priority, None);
    assert!(!old.pool_ref.is_pool("qwen"), "it is of another group");

    let rewrites = &snapshot.inference_model_rewrites;
    let rules = &rewrites[&ObjectKey::new("llm-d", "canary")].spec.rules;
    assert_eq!(rules[0].matches[0].model.value, "food");
    assert_eq!(rules[0].targets[1].weight.unwrap().get(), 10);
    assert_eq!((rules[1].matches.len(), rules[1].targets[0].model_rewrite.as_str()), (0, "base"));

    assert_eq!(rewrites.len(), 1);
    let problems: Vec<&str> = snapshot.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        problems,
        ["spec.rules[0].targets has targets with and without a weight", "spec.rules[0].targets is empty"]
    );
}

#[tokio::test]
async fn reads_secrets_and_hides_values() {
    let snapshot = snapshot_of(
        "
apiVersion: v1
kind: Secret
metadata: { name: tls, namespace: gateways }
type: kubernetes.io/tls
data: { tls.crt: aGlkZGVu, tls.key: b2xk }
stringData: { tls.key: hidden too }
---
apiVersion: v1
kind: Secret
metadata: { name: bad, namespace: gateways }
data: { password: 'hidden: not base64' }
---
apiVersion: v1
kind: Secret
metadata: { name: number, namespace: gateways }
stringData: { password: 424242 }
---
apiVersion: v1
kind: Namespace
metadata: { name: gateways, labels: { team: ml } }
",
    )
    .await;
    let secret = &snapshot.secrets[&ObjectKey::new("gateways", "tls")];
    assert_eq!(secret.type_, "kubernetes.io/tls");
    assert_eq!(secret.get("tls.crt"), Some(b"hidden".as_slice()));
    assert_eq!(secret.get("tls.key"), Some(b"hidden too".as_slice()), "stringData comes before data");
    assert_eq!(secret.get("ca.crt"), None);
    let namespace = &snapshot.namespaces[&ObjectKey::new("", "gateways")];
    assert_eq!(namespace.metadata.labels.as_ref().unwrap()["team"], "ml");

    let shown = format!("{snapshot:?}");
    assert!(shown.contains("tls.crt") && snapshot.problems.len() == 2, "{shown}");
    for hidden in ["hidden", "104, 105, 100", "aGlkZGVu", "424242"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}

#[tokio::test]
async fn objects_of_a_replaced_api_group_are_problems() {
    let manifest = |kind: &str| {
        format!(
            "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: qwen, namespace: llm-d}}\n"
        )
    };
    for (kind, instead) in [
        ("InferencePool", "use InferencePool of inference.networking.k8s.io/v1"),
        ("InferenceModel", "use an HTTPRoute that matches the model"),
    ] {
        let snapshot = snapshot_of(&manifest(kind)).await;
        let problem = snapshot.problems.first().map(ToString::to_string).unwrap_or_default();
        assert!(problem.contains(&format!("{kind} llm-d/qwen: objects of the API group")), "{problem}");
        assert!(problem.contains(instead), "{problem}");
    }
}
