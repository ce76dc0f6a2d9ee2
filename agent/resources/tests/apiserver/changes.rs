//! Changes of objects reach the store.

use forebay_resources::{Kind, ObjectKey};
use kube::api::DeleteParams;
use serde_json::json;

use forebay_apiserver::store::{api, apply, interest, namespace, provide, shared, until};

#[tokio::test]
async fn follows_add_change_and_delete() {
    let Some(server) = shared().await else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "changes").await;
    let maps = api(&client, "v1", "ConfigMap", "configmaps", "changes");
    let put = async |name: &str, value: &str| {
        apply(&maps, "v1", "ConfigMap", name, json!({ "data": { "k": value } })).await;
    };
    put("a", "one").await;
    put("b", "one").await;

    let (store, _provider) = provide(client.clone(), interest([Kind::ConfigMap], "changes"));
    let first = until(&store, "the first list", |_| true).await;
    assert_eq!(first.generation, 1);
    assert_eq!(first.config_maps.len(), 2, "the first snapshot has all");
    let key = ObjectKey::new("changes", "a");
    assert_eq!(first.config_maps[&key].metadata.managed_fields, None, "pruned");

    put("a", "two").await;
    let value = |name: &str| ObjectKey::new("changes", name);
    let has = |snapshot: &forebay_resources::Snapshot, name: &str, expected: &str| {
        snapshot
            .config_maps
            .get(&value(name))
            .is_some_and(|map| map.data.as_ref().is_some_and(|data| data["k"] == expected))
    };
    until(&store, "a is changed", |snapshot| has(snapshot, "a", "two")).await;
    put("c", "three").await;
    until(&store, "c is added", |snapshot| has(snapshot, "c", "three")).await;
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let last =
        until(&store, "b is deleted", |snapshot| !snapshot.config_maps.contains_key(&value("b"))).await;
    assert_eq!(last.config_maps.len(), 2);
    assert_eq!(first.config_maps.len(), 2, "old snapshots do not change");
    assert!(has(&first, "a", "one"));
}
