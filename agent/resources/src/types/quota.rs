//! `Quota` (`forebay.dev/v1alpha1`): budgets of requests, tokens and money for callers.
//!
//! The spec is kept as JSON and parsed where it is compiled: an object with an invalid field must not be left out, because
//! that would open what it limits.

mod fields;

use std::borrow::Cow;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::fields::{
    LabelOperator, LabelRequirement, MetadataSelector, ModelPrice, QuotaCallers, QuotaFields, QuotaLimitSpec,
    QuotaMode, QuotaTargetRef, QuotaWindow, StoreFailure, TokenCount,
};
use super::agentgateway_policy::{AgentgatewayPolicyStatus, PolicyTargetRef, lenient};

/// `spec` of a [`Quota`], whether it is valid or not.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "forebay.dev",
    version = "v1alpha1",
    kind = "Quota",
    plural = "quotas",
    namespaced,
    status = "AgentgatewayPolicyStatus",
    derive = "PartialEq",
    doc = "Budgets of requests, tokens and money for the callers of a Gateway or an HTTPRoute.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Attached", "type": "string", "jsonPath": ".status.ancestors[*].conditions[?(@.type==\"Attached\")].reason"}"#,
    printcolumn = r#"{"name": "Counted", "type": "string", "jsonPath": ".status.ancestors[*].conditions[?(@.type==\"Counted\")].reason"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(transparent)]
pub struct QuotaSpec {
    /// The fields as they were written.
    pub fields: Value,
}

impl QuotaSpec {
    /// The fields. The error names the one that is invalid.
    ///
    /// # Errors
    /// If a field is unknown, missing or of another type. Bounds are not checked.
    pub fn parse(&self) -> Result<QuotaFields, String> {
        serde_path_to_error::deserialize(&self.fields).map_err(|error| {
            if error.path().iter().next().is_some() {
                format!("{}: {}", error.path(), error.inner())
            } else {
                error.inner().to_string()
            }
        })
    }

    /// What the quota targets, as far as it can be read.
    pub fn targets(&self) -> Vec<PolicyTargetRef> {
        let refs = self.fields.get("targetRefs").cloned().unwrap_or_default();
        lenient::targets(refs).unwrap_or_default()
    }
}

/// That of [`QuotaFields`].
impl JsonSchema for QuotaSpec {
    fn schema_name() -> Cow<'static, str> {
        QuotaFields::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        QuotaFields::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(fields: Value) -> QuotaSpec {
        QuotaSpec { fields }
    }

    #[test]
    fn an_invalid_quota_still_has_its_targets() {
        let target = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g" });
        for fields in [
            json!({ "targetRefs": [target], "limits": 7 }),
            json!({ "targetRefs": [target, 7], "later": true }),
            json!({ "targetRefs": target }),
        ] {
            let spec = spec(fields);
            assert_eq!(spec.targets().iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["g"]);
            assert!(spec.parse().is_err(), "{spec:?}");
        }
        assert_eq!(spec(json!("x")).targets(), []);
    }

    #[test]
    fn errors_name_the_field() {
        let target = json!({ "group": "g", "kind": "Gateway", "name": "g" });
        for (fields, expected) in [
            (json!({}), "missing field `targetRefs`"),
            (
                json!({ "targetRefs": [target], "limits": [{ "requests": 1, "per": "x" }] }),
                "limits[0].per: unknown field",
            ),
            (
                json!({ "targetRefs": [target], "limits": [{ "requests": "1" }] }),
                "limits[0].requests: invalid type",
            ),
            (
                json!({ "targetRefs": [target], "limits": [], "mode": "Audit" }),
                "mode: unknown variant `Audit`",
            ),
        ] {
            let why = spec(fields.clone()).parse().unwrap_err();
            assert!(why.starts_with(expected), "{fields}: {why}");
        }
    }
}
