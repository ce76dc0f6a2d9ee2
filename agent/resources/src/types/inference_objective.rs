//! `InferenceObjective` of `llm-d.ai/v1alpha2`; the older group
//! `inference.networking.x-k8s.io/v1alpha2` has the same shape.

#![allow(missing_docs, reason = "fields are documented by the API; their docs become part of the CRD")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Named by the request header `x-llm-d-inference-objective`.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "llm-d.ai",
    version = "v1alpha2",
    kind = "InferenceObjective",
    plural = "inferenceobjectives",
    namespaced,
    status = "InferenceObjectiveStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceObjectiveSpec {
    /// Higher is served first. 0 if unset. Requests with a negative priority may be shed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    pub pool_ref: PoolObjectReference,
}

/// A pool in the namespace of the referring object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolObjectReference {
    #[serde(default = "pool_group")]
    pub group: String,
    #[serde(default = "pool_kind")]
    pub kind: String,
    pub name: String,
}

impl PoolObjectReference {
    /// Whether it refers to the InferencePool `name`.
    pub fn is_pool(&self, name: &str) -> bool {
        self.group == pool_group() && self.kind == pool_kind() && self.name == name
    }
}

fn pool_group() -> String {
    "inference.networking.k8s.io".into()
}

fn pool_kind() -> String {
    "InferencePool".into()
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InferenceObjectiveStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
