//! `InferenceModelRewrite` of `llm-d.ai/v1alpha2`; the older group
//! `inference.networking.x-k8s.io/v1alpha2` has the same shape.

#![allow(missing_docs, reason = "fields are documented by the API; their docs become part of the CRD")]

use std::num::NonZeroU32;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PoolObjectReference;

/// Maximum weight of the CRD.
const MAX_WEIGHT: u32 = 1_000_000;

#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "llm-d.ai",
    version = "v1alpha2",
    kind = "InferenceModelRewrite",
    plural = "inferencemodelrewrites",
    namespaced,
    status = "InferenceModelRewriteStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceModelRewriteSpec {
    pub pool_ref: PoolObjectReference,
    /// The first matching rule applies; an exact match of a later rule precedes a rule without matches.
    pub rules: Vec<ModelRewriteRule>,
}

impl InferenceModelRewriteSpec {
    /// Rules of the CRD's schema beyond the types; and all targets of a rule have a weight, or none has.
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (index, rule) in self.rules.iter().enumerate() {
            let place = format!("spec.rules[{index}].targets");
            if rule.targets.is_empty() {
                return Err(format!("{place} is empty"));
            }
            let weighted = rule.targets.iter().filter(|target| target.weight.is_some()).count();
            if weighted != 0 && weighted != rule.targets.len() {
                return Err(format!("{place} has targets with and without a weight"));
            }
            if rule.targets.iter().flat_map(|target| target.weight).any(|weight| weight.get() > MAX_WEIGHT) {
                return Err(format!("{place} has a weight over {MAX_WEIGHT}"));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRewriteRule {
    /// One of these must match. Without any, every request matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<ModelRewriteMatch>,
    #[serde(default)]
    pub targets: Vec<TargetModel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRewriteMatch {
    pub model: ModelMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelMatch {
    #[serde(rename = "type", default)]
    pub kind: ModelMatchType,
    /// The `model` of the request's body.
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelMatchType {
    #[default]
    Exact,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetModel {
    /// Share of the sum of all weights of the rule. All targets are equal if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonZeroU32>,
    /// Model name in the request to the pod.
    pub model_rewrite: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InferenceModelRewriteStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
