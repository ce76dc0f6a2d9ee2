//! `by-label`, and `decode-filter`, `prefill-filter` and `encode-filter`, which are made of it.

use serde::Deserialize;

use super::super::{parameter, plugin::Filter, view::View};

/// Keeps the endpoints whose pods have a label with one of the values.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ByLabel {
    /// Name of the label. Required.
    #[serde(deserialize_with = "parameter::text")]
    pub label: String,
    /// Values. Default none.
    #[serde(default)]
    pub valid_values: Vec<String>,
    /// Keep pods without the label. Default false.
    #[serde(default)]
    pub allows_no_label: bool,
}

const ROLE: &str = "llm-d.ai/role";

impl ByLabel {
    fn role(allows_no_label: bool, roles: &[&str]) -> Self {
        let valid_values = roles.iter().map(|role| (*role).to_owned()).collect();
        Self { label: ROLE.to_owned(), valid_values, allows_no_label }
    }

    /// `decode-filter`.
    pub fn decode() -> Self {
        Self::role(true, &["decode", "prefill-decode", "both", "encode-prefill-decode"])
    }

    /// `prefill-filter`.
    pub fn prefill() -> Self {
        let roles = ["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"];
        Self::role(false, &roles)
    }

    /// `encode-filter`.
    pub fn encode() -> Self {
        Self::role(false, &["encode", "encode-prefill", "encode-prefill-decode"])
    }
}

impl Filter for ByLabel {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        candidates.retain(|candidate| match view.label(*candidate, &self.label) {
            Some(value) => self.valid_values.iter().any(|it| it == value),
            None => self.allows_no_label,
        });
    }
}
