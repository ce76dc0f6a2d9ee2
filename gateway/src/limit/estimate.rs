//! What a request will probably use.

use std::sync::Arc;

use foldhash::HashMap;
use forebay_openai::Usage;
use forebay_routing::TokenUse;

/// Before any response reported its usage.
const INITIAL_TOKENS_PER_BYTE: f64 = 0.25;
const INITIAL_OUTPUT: f64 = 256.0;
/// Weight of the newest request.
const WEIGHT: f64 = 0.1;
/// Bodies and responses are bounded, so larger values are faults of the engine.
const MAX_TOKENS: f64 = 1e9;

/// Of each model. `None`: of the models that no resource names.
#[derive(Debug, Default)]
pub(super) struct Estimates(HashMap<Option<Arc<str>>, ModelEstimates>);

/// What is known of a request before it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Label of the model. `None` if no resource names it.
    pub(crate) model: Option<Arc<str>>,
    /// Of the body.
    pub(crate) body_bytes: u64,
    /// Maximum that the request sets.
    pub(crate) max_output: Option<u64>,
}

/// Learned from the usage that engines report.
#[derive(Clone, Copy, Debug)]
struct ModelEstimates {
    prompt_tokens_per_byte: f64,
    output_tokens: f64,
}

/// The estimate for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) prompt: u64,
    pub(super) output: u64,
}

impl Estimate {
    pub(super) fn tokens(self) -> u64 {
        self.prompt + self.output
    }

    /// Nothing is expected to be in the engine's cache.
    pub(super) fn token_use(self) -> TokenUse {
        TokenUse { prompt: self.prompt, cached: 0, output: self.output }
    }
}

impl Default for ModelEstimates {
    fn default() -> Self {
        Self { prompt_tokens_per_byte: INITIAL_TOKENS_PER_BYTE, output_tokens: INITIAL_OUTPUT }
    }
}

impl Estimates {
    pub(super) fn of(&self, expected: &Expected) -> Estimate {
        let model = self.0.get(&expected.model).copied().unwrap_or_default();
        let prompt = expected.body_bytes as f64 * model.prompt_tokens_per_byte;
        let output = expected.max_output.unwrap_or(model.output_tokens.ceil() as u64);
        Estimate { prompt: prompt.min(MAX_TOKENS).ceil() as u64, output: output.min(MAX_TOKENS as u64) }
    }

    pub(super) fn learn(&mut self, expected: &Expected, usage: Usage) {
        match self.0.get_mut(&expected.model) {
            Some(model) => model.learn(expected.body_bytes, usage),
            // Bounded by the models that resources name.
            None => {
                let mut model = ModelEstimates::default();
                model.learn(expected.body_bytes, usage);
                self.0.insert(expected.model.clone(), model);
            }
        }
    }
}

impl ModelEstimates {
    fn learn(&mut self, body_bytes: u64, usage: Usage) {
        let mean = |old: f64, new: f64| old + WEIGHT * (new - old);
        if let Some(prompt) = usage.prompt_tokens.filter(|_| body_bytes > 0) {
            let per_byte = (prompt as f64).min(MAX_TOKENS) / body_bytes as f64;
            self.prompt_tokens_per_byte = mean(self.prompt_tokens_per_byte, per_byte);
        }
        if let Some(output) = usage.completion_tokens {
            self.output_tokens = mean(self.output_tokens, (output as f64).min(MAX_TOKENS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(model: Option<&str>, body_bytes: u64) -> Expected {
        Expected { model: model.map(Arc::from), body_bytes, max_output: None }
    }

    fn usage(prompt: impl Into<Option<u64>>, completion: impl Into<Option<u64>>) -> Usage {
        Usage { prompt_tokens: prompt.into(), completion_tokens: completion.into(), ..Usage::default() }
    }

    #[test]
    fn estimates_follow_the_reported_usage_of_the_model() {
        let mut estimates = Estimates::default();
        let initial = Estimate { prompt: 100, output: 256 };
        assert_eq!(estimates.of(&expected(Some("a"), 400)), initial);
        for _ in 0..100 {
            estimates.learn(&expected(Some("a"), 400), usage(200, 10));
            estimates.learn(&expected(None, 400), usage(400, 20));
        }
        assert_eq!(estimates.of(&expected(Some("a"), 400)), Estimate { prompt: 200, output: 11 });
        assert_eq!(estimates.of(&expected(None, 400)), Estimate { prompt: 400, output: 21 });
        assert_eq!(estimates.of(&expected(Some("b"), 400)), initial);
        assert_eq!(estimates.of(&expected(Some("a"), u64::MAX)).prompt, MAX_TOKENS as u64);
    }

    #[test]
    fn the_maximum_of_the_request_is_reserved() {
        let estimates = Estimates::default();
        for (max_output, output) in [(7, 7), (100_000, 100_000), (u64::MAX, MAX_TOKENS as u64)] {
            let expected = Expected { max_output: Some(max_output), ..expected(None, 400) };
            assert_eq!(estimates.of(&expected), Estimate { prompt: 100, output });
        }
    }

    #[test]
    fn unknown_counts_are_not_learned() {
        let mut estimates = Estimates::default();
        estimates.learn(&expected(None, 400), Usage::default());
        estimates.learn(&expected(None, 0), usage(9, None));
        assert_eq!(estimates.of(&expected(None, 400)), Estimate { prompt: 100, output: 256 });
    }
}
