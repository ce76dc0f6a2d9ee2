//! `InferenceModelRewrite` of `llm-d.ai/v1alpha2`; the older group
//! `inference.networking.x-k8s.io/v1alpha2` has the same shape.

use std::num::NonZeroU32;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PoolObjectReference;

/// The largest weight that the CRD allows.
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
    /// The first rule that matches is the one, but an exact match of a later one
    /// comes before a rule without matches.
    pub rules: Vec<ModelRewriteRule>,
}

impl InferenceModelRewriteSpec {
    /// What the CRD's schema asks for beyond the types, and that weights are
    /// given to all targets of a rule or to none.
    pub(super) fn validate(&self) -> Result<(), String> {
        for (index, rule) in self.rules.iter().enumerate() {
            let place = format!("spec.rules[{index}].targets");
            if rule.targets.is_empty() {
                return Err(format!("{place} is empty"));
            }
            let weighted = rule.targets.iter().filter(|target| target.weight.is_some()).count();
            if weighted != 0 && weighted != rule.targets.len() {
                return Err(format!("{place} has weights for some and not for others"));
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
    /// One of these must match; without any, every request does.
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
    /// A share of the sum of all weights of the rule; all are equal without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonZeroU32>,
    /// The model that the pods are asked for.
    pub model_rewrite: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InferenceModelRewriteStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
