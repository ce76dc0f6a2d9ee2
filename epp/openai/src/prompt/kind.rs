use super::member::Member;

/// The API of a request, which decides what of the body is the prompt.
///
/// | kind | turns | context, in this order |
/// |---|---|---|
/// | chat completions | `messages` | `chat_template`, `chat_template_kwargs`, `reasoning_effort`, `tools`, `functions`, `documents` |
/// | completions | `prompt` | |
/// | responses | `input` | `chat_template_kwargs`, `reasoning`, `instructions`, `tools` |
/// | messages | `messages` | `chat_template_kwargs`, `system`, `tools` |
/// | embeddings | `input`, else `messages` | |
///
/// Sources: `build_chat_params` of vLLM's `ChatCompletionRequest`, `AnthropicMessagesRequest` of vLLM, and the API references
/// of OpenAI and Anthropic. `tool_choice` is left out: in most templates it changes nothing, and conversations alternate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// `POST /v1/chat/completions` (OpenAI).
    ChatCompletions,
    /// `POST /v1/completions` (OpenAI).
    Completions,
    /// `POST /v1/responses` (OpenAI). Earlier turns that a `previous_response_id` (or `previous_response` of vLLM) adds are not
    /// read.
    Responses,
    /// `POST /v1/messages` (Anthropic).
    Messages,
    /// `POST /v1/embeddings` (OpenAI; with `messages`: vLLM).
    Embeddings,
}

impl RequestKind {
    /// The kind of requests to a path, which must be normalised and without a query. `None` for other paths.
    ///
    /// # Examples
    ///
    /// ```
    /// use forebay_openai::RequestKind;
    ///
    /// assert_eq!(RequestKind::of_path("/v1/responses"), Some(RequestKind::Responses));
    /// assert_eq!(RequestKind::of_path("/v1/responses/"), None);
    /// ```
    pub fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::ChatCompletions),
            "/v1/completions" => Some(Self::Completions),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            "/v1/embeddings" => Some(Self::Embeddings),
            _ => None,
        }
    }

    /// Members that are the turns. The first one that the body has counts.
    pub(super) fn turns(self) -> &'static [Member] {
        match self {
            Self::ChatCompletions | Self::Messages => &[Member::Messages],
            Self::Completions => &[Member::Prompt],
            Self::Responses => &[Member::Input],
            Self::Embeddings => &[Member::Input, Member::Messages],
        }
    }

    /// Members that are the context, in the order in which their chains are combined.
    pub(super) fn context(self) -> &'static [Member] {
        match self {
            Self::ChatCompletions => &[
                Member::ChatTemplate,
                Member::ChatTemplateKwargs,
                Member::ReasoningEffort,
                Member::Tools,
                Member::Functions,
                Member::Documents,
            ],
            Self::Responses => {
                &[Member::ChatTemplateKwargs, Member::Reasoning, Member::Instructions, Member::Tools]
            }
            Self::Messages => &[Member::ChatTemplateKwargs, Member::System, Member::Tools],
            Self::Completions | Self::Embeddings => &[],
        }
    }
}
