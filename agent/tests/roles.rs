//! The agent with its role and no more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use forebay_agent::node::{RULES, interest};
use forebay_resources::ObjectKey;
use serde_json::json;

use forebay_apiserver::store::{api, apply, namespace, provide, shared, until};

#[tokio::test]
async fn the_agents_role_is_enough_and_it_sees_its_own_node_alone() {
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
    // Refused first: a role that comes late is enough.
    server.grant(user, None, RULES).await.unwrap();
    let snapshot = until(&store, "the agent's first list", |_| true).await;
    let names: Vec<String> = snapshot.pods.keys().map(ObjectKey::to_string).collect();
    assert_eq!(names, ["node/here"]);
    assert_eq!(snapshot.pods[&ObjectKey::new("node", "here")].spec.as_ref().unwrap().containers.len(), 0);
}
