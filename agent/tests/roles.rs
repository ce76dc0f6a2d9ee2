//! The agent with exactly the permissions of its role.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use forebay_agent::node::{RULES, interest};
use forebay_resources::ObjectKey;
use serde_json::json;

use forebay_apiserver::store::{api, apply, namespace, provide, shared, until};

#[tokio::test]
async fn role_is_sufficient_and_selects_pods_of_one_node() {
    let Some(server) = shared().await else { return };
    let user = "system:serviceaccount:forebay:forebay-agent";
    let client = server.client().await.unwrap();
    namespace(&client, "node").await;
    let pods = api(&client, "v1", "Pod", "pods", "node");
    for (name, node) in [("here", "node-a"), ("there", "node-b")] {
        let spec = json!({ "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] } });
        apply(&pods, "v1", "Pod", name, spec).await;
    }
    let restricted = server.client_as(user).await.unwrap();
    let (store, _provider) = provide(restricted, interest("node-a"));
    // The role is granted after the first attempt.
    server.grant(user, None, RULES).await.unwrap();
    let snapshot = until(&store, "the agent's first list", |_| true).await;
    let names: Vec<String> = snapshot.pods.keys().map(ObjectKey::to_string).collect();
    assert_eq!(names, ["node/here"]);
    assert_eq!(snapshot.pods[&ObjectKey::new("node", "here")].spec.as_ref().unwrap().containers.len(), 0);
}
