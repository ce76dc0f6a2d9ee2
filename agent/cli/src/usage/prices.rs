//! Prices of models.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use forebay_usage::ReportRow;
use serde::Deserialize;

const MILLION: f64 = 1e6;

/// Prices per million tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    /// Only shown.
    #[serde(default)]
    pub(super) currency: Option<String>,
    models: BTreeMap<String, Price>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    input: f64,
    /// Of prompt tokens from the prefix cache. As `input` if it is not set.
    cached: Option<f64>,
    output: f64,
}

impl Prices {
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read prices from {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("prices in {}", file.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let prices: Self = serde_yaml_ng::from_str(text)?;
        for (model, price) in &prices.models {
            let all = [Some(price.input), price.cached, Some(price.output)];
            if all.into_iter().flatten().any(|price| !(price >= 0.0 && price.is_finite())) {
                anyhow::bail!("models.{model}: a price must be a number that is not negative");
            }
        }
        Ok(prices)
    }

    /// The cost of requests for a model: by its own price, or that of its base model. `None`: it has no price.
    pub(super) fn cost(&self, model: Option<&str>, base: Option<&str>, used: &ReportRow) -> Option<f64> {
        let price = [model, base].into_iter().flatten().find_map(|name| self.models.get(name))?;
        let cached = used.cached_tokens.min(used.prompt_tokens);
        let input = (used.prompt_tokens - cached) as f64 * price.input
            + cached as f64 * price.cached.unwrap_or(price.input);
        Some((input + used.completion_tokens as f64 * price.output) / MILLION)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn costs_are_by_model_or_base_model() {
        let prices =
            "{currency: EUR, models: {m: {input: 1, cached: 0.25, output: 4}, own: {input: 2, output: 8}}}";
        let prices = Prices::parse(prices).unwrap();
        let used = ReportRow {
            prompt_tokens: 3_000_000,
            cached_tokens: 2_000_000,
            completion_tokens: 500_000,
            ..ReportRow::default()
        };
        assert_eq!(prices.cost(Some("m"), Some("m"), &used), Some(1.0 + 0.5 + 2.0));
        assert_eq!(prices.cost(Some("lora"), Some("m"), &used), Some(3.5));
        assert_eq!(prices.cost(Some("own"), Some("m"), &used), Some(6.0 + 4.0));
        assert_eq!(prices.cost(Some("x"), Some("x"), &used), None);
        assert_eq!(prices.cost(None, None, &used), None);
    }

    #[test]
    fn invalid_prices_are_named() {
        for (text, problem) in [
            ("{models: {m: {input: -1, output: 2}}}", "models.m: a price must be"),
            ("{models: {m: {input: .nan, output: 2}}}", "models.m: a price must be"),
            ("{models: {m: {input: 1}}}", "missing field `output`"),
            ("{models: {m: {input: 1, output: 2, ouput: 3}}}", "unknown field `ouput`"),
            ("{model: {}}", "unknown field `model`"),
        ] {
            let error = format!("{:#}", Prices::parse(text).unwrap_err());
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
