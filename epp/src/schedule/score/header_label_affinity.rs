//! `header-label-affinity-scorer`.

use serde::Deserialize;

use super::super::{parameter, plugin::Scorer, view::View};

/// Prefers endpoints whose label has the value of a request header: 1, otherwise 0.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HeaderLabelAffinity {
    /// Name of the header. Required.
    #[serde(deserialize_with = "parameter::header_name")]
    pub header_name: String,
    /// Name of the label. Required.
    #[serde(deserialize_with = "parameter::text")]
    pub label_key: String,
}

impl Scorer for HeaderLabelAffinity {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let Some(value) = view.header(&self.header_name) else { return };
        for (candidate, score) in candidates.iter().zip(scores) {
            let is_equal = view.label(*candidate, &self.label_key) == Some(value);
            *score = f32::from(u8::from(is_equal));
        }
    }
}
