//! How a request ended, and the tokens that it used.

use forebay_openai::Usage;
use forebay_routing::TokenUse;

use super::estimate::Estimate;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Another limit has no room for it.
    NotAdmitted,
    /// No engine worked on it, or the engine reported an error.
    Failed,
    /// The engine reported what it used.
    Reported(Usage),
    /// A stream without usage had so many events. Each has about one token.
    Streamed { events: u64 },
    /// An engine worked on it, and it is not known how much.
    Unknown,
}

impl Served {
    /// What was used, as far as it is known, else the estimate.
    pub(super) fn tokens(self, estimate: Estimate) -> TokenUse {
        match self {
            Self::NotAdmitted | Self::Failed => TokenUse::default(),
            Self::Reported(usage) => TokenUse {
                prompt: usage.prompt_tokens.unwrap_or(estimate.prompt),
                cached: usage.cached_tokens.unwrap_or(0),
                output: usage.completion_tokens.unwrap_or(0),
            },
            Self::Streamed { events } => TokenUse { output: events, ..estimate.token_use() },
            Self::Unknown => estimate.token_use(),
        }
    }
}
