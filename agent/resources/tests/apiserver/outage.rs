//! Outages of the API server.

use forebay_apiserver::ApiServer;
use forebay_resources::{Kind, ObjectKey, Snapshot};
use kube::api::DeleteParams;
use serde_json::json;

use forebay_apiserver::store::{api, apply, interest, namespace, provide, until};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_state_in_outage_and_catches_up() {
    let Some(mut server) = ApiServer::start().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    namespace(&client, "outage").await;
    let maps = api(&client, "v1", "ConfigMap", "configmaps", "outage");
    for name in ["stays", "goes"] {
        apply(&maps, "v1", "ConfigMap", name, json!({ "data": { "k": "v" } })).await;
    }
    let wanted = || interest([Kind::ConfigMap, Kind::Pod], "outage");
    let (store, provider) = provide(client.clone(), wanted());
    let first = until(&store, "the first list", |it| it.config_maps.len() == 2).await;

    server.stop();
    // A provider that starts during the outage has no objects yet.
    let (late, _late_provider) = provide(client.clone(), wanted());
    server.start_again().await.unwrap();
    let now = store.snapshot();
    assert!(now.config_maps.keys().eq(first.config_maps.keys()), "objects were lost during the outage");
    maps.delete("goes", &DeleteParams::default()).await.unwrap();
    apply(&maps, "v1", "ConfigMap", "comes", json!({ "data": {} })).await;
    let caught_up = |it: &Snapshot| {
        let has = |name: &str| it.config_maps.contains_key(&ObjectKey::new("outage", name));
        has("stays") && has("comes") && !has("goes")
    };
    until(&store, "catches up", caught_up).await;
    until(&late, "loads after the outage", caught_up).await;

    // A second outage: the watch resumes after its last list.
    server.stop();
    server.start_again().await.unwrap();
    maps.delete("comes", &DeleteParams::default()).await.unwrap();
    until(&store, "catches up again", |it| it.config_maps.len() == 1).await;
    drop(provider);
}
