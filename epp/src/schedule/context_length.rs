//! `context-length-aware`: pods for short and for long prompts.

use serde::Deserialize;

use super::{
    parameter::{self, BYTES_PER_TOKEN},
    plugin::{Filter, Needs, Scorer},
    view::View,
};

/// Highest score of an endpoint whose range does not contain the prompt.
const OUTSIDE: f32 = 0.3;
/// Score of an endpoint without a range.
const NEUTRAL: f32 = 0.5;

/// Prefers endpoints whose label `min-max` contains the prompt's tokens (4 bytes each):
/// `0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * (max - tokens) / width)`, and 1 if the width is 0. Outside the range:
/// `0.3 / (1 + distance / 1000)`. 0.5 without a label, 0 with an invalid one.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ContextLengthAware {
    /// Label of the pods. Default `llm-d.ai/context-length-range`.
    #[serde(deserialize_with = "parameter::text")]
    pub label: String,
    /// Remove the endpoints whose label does not contain the prompt. Default false.
    pub enable_filtering: bool,
}

impl Default for ContextLengthAware {
    fn default() -> Self {
        Self { label: "llm-d.ai/context-length-range".to_owned(), enable_filtering: false }
    }
}

/// Tokens of prompts, with both ends.
#[derive(Clone, Copy, Debug)]
struct Range {
    min: f32,
    max: f32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (min, max) = text.split_once('-')?;
        let (min, max): (u32, u32) = (min.trim().parse().ok()?, max.trim().parse().ok()?);
        (min <= max).then_some(Self { min: min as f32, max: max as f32 })
    }

    fn contains(self, tokens: f32) -> bool {
        (self.min..=self.max).contains(&tokens)
    }

    fn score(self, tokens: f32) -> f32 {
        if !self.contains(tokens) {
            let distance = if tokens > self.max { tokens - self.max } else { self.min - tokens };
            return OUTSIDE / (1.0 + distance / 1000.0);
        }
        let width = self.max - self.min;
        if width == 0.0 {
            return 1.0;
        }
        let narrow = 1.0 / (1.0 + width / 10_000.0);
        let headroom = (self.max - tokens) / width;
        OUTSIDE + (0.7 * narrow + 0.3 * headroom) * (1.0 - OUTSIDE)
    }
}

fn tokens(view: &View<'_>) -> f32 {
    (view.prompt_bytes() as f32 / BYTES_PER_TOKEN).ceil()
}

impl Scorer for ContextLengthAware {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let tokens = tokens(view);
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = match view.label(*candidate, &self.label) {
                Some(label) => Range::parse(label).map_or(0.0, |range| range.score(tokens)),
                None => NEUTRAL,
            };
        }
    }
}

impl Filter for ContextLengthAware {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let tokens = tokens(view);
        candidates.retain(|candidate| {
            let label = view.label(*candidate, &self.label);
            label.is_none_or(|label| Range::parse(label).is_some_and(|range| range.contains(tokens)))
        });
    }
}
