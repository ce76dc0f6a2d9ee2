//! An API server that goes away and comes back.

use forebay_apiserver::ApiServer;
use forebay_resources::{Kind, ObjectKey, Snapshot};
use kube::api::DeleteParams;
use serde_json::json;

use forebay_apiserver::store::{api, apply, interest, namespace, provide, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_state_stays_and_what_was_missed_is_made_up_for() {
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
    // One that begins now has nothing to begin with.
    let (late, _late_provider) = provide(client.clone(), wanted());
    server.start_again().await.unwrap();
    let now = store.snapshot();
    assert!(now.config_maps.keys().eq(first.config_maps.keys()), "something was forgotten meanwhile");
    maps.delete("goes", &DeleteParams::default()).await.unwrap();
    apply(&maps, "v1", "ConfigMap", "comes", json!({ "data": {} })).await;
    let caught_up = |it: &Snapshot| {
        let has = |name: &str| it.config_maps.contains_key(&ObjectKey::new("outage", name));
        has("stays") && has("comes") && !has("goes")
    };
    until(&store, "it catches up", caught_up).await;
    until(&late, "it begins", caught_up).await;

    // A second time: its watch begins anew from what it had listed.
    server.stop();
    server.start_again().await.unwrap();
    maps.delete("comes", &DeleteParams::default()).await.unwrap();
    until(&store, "it catches up again", |it| it.config_maps.len() == 1).await;
    drop(provider);
}
