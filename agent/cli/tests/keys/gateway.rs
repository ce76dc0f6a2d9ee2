use std::fs;

use serde_json::Value;
use tokio::process::Command;

use crate::program::Keys;

const DOOR: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: forebay }
spec: { controllerName: forebay.dev/gateway }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway, namespace: door }
spec: { gatewayClassName: forebay, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: { name: door, namespace: door }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: gateway }]
  traffic: { apiKeyAuthentication: { secretRef: { name: api-keys } } }
";

/// What `forebay check` finds about the policy, by the code of the gateway.
async fn problems(keys: &Keys) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("door.yaml"), DOOR).unwrap();
    let mut secret = serde_json::to_value(keys.secrets().get("api-keys").await.unwrap()).unwrap();
    (secret["apiVersion"], secret["kind"]) = ("v1".into(), "Secret".into());
    fs::write(folder.path().join("keys.json"), secret.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["check", "-o", "json", "--resources"])
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = document["items"].as_array().unwrap().iter();
    let messages = items.filter_map(|item| item["message"].as_str());
    messages.filter(|message| message.contains("apiKeyAuthentication")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_gateway_accepts_every_entry_that_is_written() {
    let Some(keys) = Keys::new("door").await else { return };
    keys.key("create plain").await;
    keys.key("create full --owner=a --group=b --model=c --expires=30d --set=d=e").await;
    keys.key("rotate full --grace=1h").await;
    assert_eq!(problems(&keys).await, Vec::<String>::new());

    let patch = serde_json::json!({ "stringData": { "wrong": "{\"keyHash\": \"sha256:12\"}" } });
    let patch = kube::api::Patch::Merge(patch);
    keys.secrets().patch("api-keys", &kube::api::PatchParams::default(), &patch).await.unwrap();
    let found = problems(&keys).await;
    assert!(found.len() == 1 && found[0].contains("entry wrong of Secret door/api-keys"), "{found:?}");
}
