//! Token counts of a response.

use serde::Deserialize;

/// Token counts that an engine reports in `usage`. `None` if it has not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt. `prompt_tokens` in chat and completions, `input_tokens` in the Responses and Messages API.
    #[serde(alias = "input_tokens", default)]
    pub prompt_tokens: Option<u64>,
    /// Generated tokens. `completion_tokens` in chat and completions, `output_tokens` in the Responses and Messages API.
    #[serde(alias = "output_tokens", default)]
    pub completion_tokens: Option<u64>,
}

impl Usage {
    /// Takes the counts of a later report. What it does not say stays: `message_delta` of the Messages API has only the
    /// generated tokens, `message_start` has those of the prompt.
    pub fn update(&mut self, later: Self) {
        self.prompt_tokens = later.prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = later.completion_tokens.or(self.completion_tokens);
    }

    pub(super) fn is_known(self) -> bool {
        self != Self::default()
    }
}
