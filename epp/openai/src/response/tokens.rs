//! Token counts of a response.

use serde::Deserialize;
use serde_json::Value;

/// Token counts that an engine reports in `usage`. `None` if it has not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Members")]
pub struct Usage {
    /// Tokens of the prompt. `prompt_tokens` in chat and completions, `input_tokens` in the Responses and Messages API.
    pub prompt_tokens: Option<u64>,
    /// Generated tokens. `completion_tokens` in chat and completions, `output_tokens` in the Responses and Messages API.
    pub completion_tokens: Option<u64>,
    /// Tokens of the prompt that were in the prefix cache: `cached_tokens` of `prompt_tokens_details` or
    /// `input_tokens_details`, `cache_read_input_tokens` in the Messages API.
    pub cached_tokens: Option<u64>,
    /// Of the generated tokens, those of the reasoning: `reasoning_tokens` of `completion_tokens_details` or
    /// `output_tokens_details`.
    pub reasoning_tokens: Option<u64>,
}

/// Members of a `usage` object. A count of tokens that is not a number makes the object unreadable. Details of an unknown
/// form are ignored.
#[derive(Default, Deserialize)]
pub(super) struct Members {
    #[serde(alias = "input_tokens", default)]
    pub(super) prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens", default)]
    pub(super) completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details", default)]
    pub(super) prompt_tokens_details: Value,
    #[serde(alias = "output_tokens_details", default)]
    pub(super) completion_tokens_details: Value,
    #[serde(default)]
    pub(super) cache_read_input_tokens: Value,
}

impl From<Members> for Usage {
    fn from(members: Members) -> Self {
        let detail = |details: &Value, name: &str| details.get(name).and_then(Value::as_u64);
        Self {
            prompt_tokens: members.prompt_tokens,
            completion_tokens: members.completion_tokens,
            cached_tokens: detail(&members.prompt_tokens_details, "cached_tokens")
                .or(members.cache_read_input_tokens.as_u64()),
            reasoning_tokens: detail(&members.completion_tokens_details, "reasoning_tokens"),
        }
    }
}

impl Usage {
    /// Takes the counts of a later report. What it does not say stays: `message_delta` of the Messages API has only the
    /// generated tokens, `message_start` has those of the prompt.
    pub fn update(&mut self, later: Self) {
        self.prompt_tokens = later.prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = later.completion_tokens.or(self.completion_tokens);
        self.cached_tokens = later.cached_tokens.or(self.cached_tokens);
        self.reasoning_tokens = later.reasoning_tokens.or(self.reasoning_tokens);
    }

    pub(super) fn is_known(self) -> bool {
        self != Self::default()
    }
}
