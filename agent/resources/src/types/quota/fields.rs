//! The fields of a Quota, with the bounds of the CRD's schema. Objects from a folder are checked by the compiler of the
//! routing table, which has the same bounds.

#![allow(missing_docs, reason = "fields are documented for the CRD; types by their field")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!self.limits.exists(limit, has(limit.money)) || (has(self.prices) && size(self.prices) > 0)",
    "message": "a limit of money needs prices",
}]))]
pub struct QuotaFields {
    /// What the quota limits: Gateways, their listeners (`sectionName`), or HTTPRoutes, in the namespace of the quota.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<QuotaTargetRef>,
    /// The callers that it limits. All callers if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callers: Option<QuotaCallers>,
    /// The quota is for callers that the `callers` of no other quota of the same target select.
    #[serde(default)]
    pub is_default: bool,
    /// A CEL expression with a string as its value, such as `apiKey.name`. Each value has counters of its own. Requests for
    /// which it has no value share one set of counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub per: Option<String>,
    /// The models that it limits: names that clients send, or base models. All requests if it is not set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
    /// All of them bind.
    #[schemars(length(min = 1, max = 16))]
    pub limits: Vec<QuotaLimitSpec>,
    /// What tokens cost, by model. Needed for limits of money.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub prices: Vec<ModelPrice>,
    /// `Warn` rejects no request: requests above a limit are counted, and have the response header
    /// `x-forebay-quota-warning`.
    #[serde(default)]
    pub mode: QuotaMode,
    /// What a gateway does while the store of the counters is not reachable. `Share`: it admits its share of each limit, the
    /// limit divided by the number of gateways, as it does without a store. `Open`: it admits all requests and counts them.
    /// `Closed`: it rejects all requests. Without a store (flag `--quota-store` of the gateway) it has no effect.
    #[serde(default)]
    pub when_store_unavailable: StoreFailure,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.kind == 'Gateway' || !has(self.sectionName)",
    "message": "sectionName is supported for Gateways only",
}]))]
pub struct QuotaTargetRef {
    #[schemars(extend("enum" = ["gateway.networking.k8s.io"]))]
    pub group: String,
    #[schemars(extend("enum" = ["Gateway", "HTTPRoute"]))]
    pub kind: String,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A listener of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.keySelector) != has(self.condition)",
    "message": "exactly one of keySelector and condition must be set",
}]))]
pub struct QuotaCallers {
    /// Selects API keys by their metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_selector: Option<MetadataSelector>,
    /// A CEL expression that is true for the callers, over the variables of authorization rules, such as
    /// `jwt.groups.exists(g, g == "research")`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub condition: Option<String>,
}

/// Members of the metadata of an API key, as a label selector. Without any requirement, every API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataSelector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 16),
        extend("additionalProperties" = { "type": "string", "maxLength": 256 })
    )]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
    "message": "values must be set for In and NotIn, and only for these",
}]))]
pub struct LabelRequirement {
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    pub operator: LabelOperator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// One limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "[has(self.requests), has(self.tokens), has(self.concurrentRequests), has(self.money)].filter(it, it).size() == 1",
        "message": "exactly one of requests, tokens, concurrentRequests and money must be set",
    },
    {
        "rule": "has(self.window) != has(self.concurrentRequests)",
        "message": "window must be set, except for concurrentRequests",
    },
    { "rule": "!has(self.count) || has(self.tokens)", "message": "count is for tokens only" },
]))]
pub struct QuotaLimitSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub requests: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_i64))]
    pub tokens: Option<i64>,
    /// Which tokens. `Total` if it is not set. `UncachedInput`: tokens of the prompt that were not in the engine's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<TokenCount>,
    /// Requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_i64))]
    pub concurrent_requests: Option<i64>,
    /// In the currency of `prices`, with at most 6 decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub money: Option<String>,
    /// A minute, hour, day or month of the calendar, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<QuotaWindow>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenCount {
    #[default]
    Total,
    Input,
    Output,
    UncachedInput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QuotaWindow {
    Minute,
    Hour,
    Day,
    Month,
}

/// Prices per million tokens, with at most 6 decimals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelPrice {
    /// A name that clients send, or a base model. `*`: all models without a price of their own.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub input: String,
    /// Of prompt tokens that were in the engine's cache. That of `input` if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub cached_input: Option<String>,
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub output: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QuotaMode {
    #[default]
    Enforce,
    Warn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoreFailure {
    #[default]
    Share,
    Open,
    Closed,
}
