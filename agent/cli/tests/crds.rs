//! `forebay crds` prints definitions that a real API server accepts as they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use forebay_apiserver::ApiServer;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::process::Command;

#[tokio::test]
async fn printed_definitions_apply_as_they_are() {
    let Some(server) = ApiServer::start().await.unwrap() else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_forebay")).arg("crds").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let definitions = Api::<CustomResourceDefinition>::all(server.client().await.unwrap());
    let mut count = 0;
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let definition = Value::deserialize(document).unwrap();
        if definition.is_null() {
            continue;
        }
        let name = definition["metadata"]["name"].as_str().unwrap();
        definitions.patch(name, &PatchParams::apply("kubectl"), &Patch::Apply(&definition)).await.unwrap();
        await_condition(definitions.clone(), name, is_crd_established()).await.unwrap();
        count += 1;
    }
    assert_eq!(count, 5, "{text}");
}
