//! Manifests: an invalid document affects no other one, and JSON is read alike as JSON and as YAML.

use forebay_resources::{ObjectKey, Snapshot, base_model, read_manifest};
use serde_json::Value;

const OTHER: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other, namespace: fuzz}\n";

/// Reads a manifest.
pub fn manifests(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let yaml = read("all.yaml", text);
    let json = read("all.json", text);
    if serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
        && yaml.problems.is_empty()
        && json.problems.is_empty()
    {
        assert_eq!(objects(&yaml), objects(&json));
    }

    let other = ObjectKey::new("fuzz", "other");
    for joined in [format!("{OTHER}\n---\n{text}"), format!("{text}\n---\n{OTHER}")] {
        let both = read("all.yaml", &joined);
        assert!(both.config_maps.contains_key(&other), "a document hides another one");
        for key in yaml.config_maps.keys().chain(yaml.pods.keys()) {
            assert!(both.config_maps.contains_key(key) || both.pods.contains_key(key), "{key:?} is lost");
        }
    }

    yaml.config_maps.values().for_each(|config_map| drop(base_model(config_map)));
    yaml.inference_pools.keys().for_each(|pool| drop(yaml.pool_endpoints(pool)));
    yaml.services.keys().for_each(|service| drop(yaml.service_endpoints(service, 80)));
}

fn read(file: &str, text: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    read_manifest(file, text, &mut snapshot);
    for problem in &snapshot.problems {
        assert!(problem.place.starts_with(file) && !problem.message.is_empty(), "{problem:?}");
    }
    snapshot
}

/// All objects as text.
fn objects(snapshot: &Snapshot) -> Vec<String> {
    let Snapshot { gateways, http_routes, inference_pools, pods, services, config_maps, .. } = snapshot;
    vec![
        format!("{gateways:?}{http_routes:?}"),
        format!("{inference_pools:?}{pods:?}"),
        format!("{services:?}{config_maps:?}"),
    ]
}
