//! The part of `AgentgatewayPolicy` (`agentgateway.dev/v1alpha1`) that sets request headers before routing. Other fields are
//! kept: a policy that restricts access must not be taken for one that does not. Nor must a policy with an invalid field be
//! left out ([`lenient`]).

#![allow(missing_docs, reason = "fields are documented by the API; their docs become part of the CRD")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ParentReference;

pub(super) mod lenient;

pub use lenient::ANY_GROUP;

#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "agentgateway.dev",
    version = "v1alpha1",
    kind = "AgentgatewayPolicy",
    plural = "agentgatewaypolicies",
    shortname = "agpol",
    namespaced,
    status = "AgentgatewayPolicyStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct AgentgatewayPolicySpec {
    #[serde(default, deserialize_with = "lenient::targets")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, deserialize_with = "lenient::targets", skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<PolicyTargetSelector>,
    #[serde(default, deserialize_with = "lenient::traffic", skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficPolicy>,
    /// All other fields.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// An object in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetRef {
    pub group: String,
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Objects in the policy's namespace with these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetSelector {
    pub group: String,
    pub kind: String,
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficPolicy {
    #[serde(default)]
    pub phase: TrafficPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformation: Option<Transformation>,
    /// All other fields.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Whether the policy applies before or after a route is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPhase {
    PreRouting,
    #[default]
    PostRouting,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transformation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<TransformationSide>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransformationSide {
    #[serde(default)]
    pub set: Vec<HeaderTransformation>,
}

/// Sets header `name` to the result of the CEL expression `value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderTransformation {
    pub name: String,
    pub value: String,
}

/// Gateway API's `PolicyStatus`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentgatewayPolicyStatus {
    #[serde(default)]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    pub ancestor_ref: ParentReference,
    pub controller_name: String,
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
