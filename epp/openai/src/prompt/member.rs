//! Names of root members.

/// Length of the longest known name, `max_completion_tokens`.
pub(super) const NAME_BYTES: usize = 21;

/// A root member. The order is part of the hashes of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    ChatTemplate,
    ChatTemplateKwargs,
    ReasoningEffort,
    Reasoning,
    System,
    Instructions,
    Tools,
    Functions,
    Documents,
    Messages,
    Input,
    Prompt,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    Priority,
    Stream,
    N,
    CacheSalt,
    Other,
}

impl Member {
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"chat_template" => Self::ChatTemplate,
            b"chat_template_kwargs" => Self::ChatTemplateKwargs,
            b"reasoning_effort" => Self::ReasoningEffort,
            b"reasoning" => Self::Reasoning,
            b"system" => Self::System,
            b"instructions" => Self::Instructions,
            b"tools" => Self::Tools,
            b"functions" => Self::Functions,
            b"documents" => Self::Documents,
            b"messages" => Self::Messages,
            b"input" => Self::Input,
            b"prompt" => Self::Prompt,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"priority" => Self::Priority,
            b"stream" => Self::Stream,
            b"n" => Self::N,
            b"cache_salt" => Self::CacheSalt,
            _ => Self::Other,
        }
    }
}
