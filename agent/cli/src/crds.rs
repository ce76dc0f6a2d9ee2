//! `forebay crds`: CustomResourceDefinitions of Forebay's own kinds, and of those that others publish, for clusters without
//! the original ones.

use std::io::{self, Write as _};

use anyhow::Context as _;
use forebay_resources::{
    AgentgatewayPolicy, InferenceModelRewrite, InferenceObjective, InferencePool, Quota,
};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

/// The kind that is Forebay's own: all of its fields are in the definition.
const OWN: &str = "quotas";

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Plural names [default: all], e.g. agentgatewaypolicies or quotas.
    names: Vec<String>,
}

pub(crate) fn print(options: &Options) -> anyhow::Result<()> {
    let all = [
        ("agentgatewaypolicies", serde_json::to_value(AgentgatewayPolicy::crd())?),
        ("inferencemodelrewrites", serde_json::to_value(InferenceModelRewrite::crd())?),
        ("inferenceobjectives", serde_json::to_value(InferenceObjective::crd())?),
        ("inferencepools", serde_json::to_value(InferencePool::crd())?),
        (OWN, serde_json::to_value(Quota::crd())?),
    ];
    for name in &options.names {
        if !all.iter().any(|(known, _)| known == name) {
            let known: Vec<_> = all.iter().map(|(known, _)| *known).collect();
            anyhow::bail!("unknown definition {name}; known are {}", known.join(", "));
        }
    }
    let mut out = io::stdout().lock();
    for (name, definition) in all {
        if options.names.is_empty() || options.names.iter().any(|asked| asked == name) {
            writeln!(out, "---\n{}", document(name, definition)?)?;
        }
    }
    Ok(())
}

fn document(name: &str, mut definition: Value) -> anyhow::Result<String> {
    if name != OWN {
        keep_unknown_fields(&mut definition);
    }
    name_approval(&mut definition);
    serde_yaml_ng::to_string(&definition).context("cannot write YAML")
}

/// The API server rejects definitions of groups of the Kubernetes project without this annotation (KEP-1111). It is not
/// the original definition, so it is not an approved one.
fn name_approval(definition: &mut Value) {
    let is_protected = |group: &str| {
        ["k8s.io", "kubernetes.io"].iter().any(|domain| {
            group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    };
    if definition["spec"]["group"].as_str().is_some_and(is_protected) {
        definition["metadata"]["annotations"] =
            json!({ "api-approved.kubernetes.io": "unapproved, reduced definition printed by forebay crds" });
    }
}

/// Forebay reads some of the fields only. Others must be preserved.
fn keep_unknown_fields(definition: &mut Value) {
    for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let schema = &mut version["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            if let Some(part) = schema["properties"].get_mut(part) {
                part["x-kubernetes-preserve-unknown-fields"] = json!(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_reference_of_the_chart_is_up_to_date() {
        let text = document(OWN, serde_json::to_value(Quota::crd()).unwrap()).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/forebay/crds/quotas.yaml");
        forebay_reference::check(std::path::Path::new(file), &text);
    }

    /// CEL rules are cheap only if everything that they walk is bounded, and everything else fills etcd.
    #[test]
    fn everything_in_a_quota_is_bounded() {
        fn check(path: &str, schema: &Value) {
            let is_bounded = match schema["type"].as_str() {
                Some("string") => {
                    !schema["enum"].is_null()
                        || schema["maxLength"].is_u64()
                        || schema["format"] == "date-time"
                }
                Some("array") => schema["maxItems"].is_u64(),
                Some("integer") => schema["maximum"].is_number(),
                Some("object") => !schema["properties"].is_null() || schema["maxProperties"].is_u64(),
                Some("boolean") => true,
                _ => false,
            };
            assert!(is_bounded, "{path}: {schema}");
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}.{name}"), property);
            }
            for (name, one) in [("items", &schema["items"]), ("values", &schema["additionalProperties"])] {
                if !one.is_null() {
                    check(&format!("{path}[{name}]"), one);
                }
            }
        }
        let definition = serde_json::to_value(Quota::crd()).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        check("spec", schema);
        assert!(schema["properties"]["limits"]["items"]["x-kubernetes-validations"].is_array());
    }

    #[test]
    fn preserves_unknown_fields() {
        let mut definition = serde_json::to_value(AgentgatewayPolicy::crd()).unwrap();
        keep_unknown_fields(&mut definition);
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(spec["type"], "object");
    }
}
