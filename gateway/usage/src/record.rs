use std::time::{Duration, SystemTime};

/// What one request used. Only requests that were sent to an endpoint have one.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRecord {
    /// When the request ended.
    pub time: SystemTime,
    /// Name of the caller's key; without a key, the subject of its token.
    pub api_key: Option<String>,
    /// Group of the caller: `group` of the metadata of its key.
    pub group: Option<String>,
    /// Model that the client asked for.
    pub model: String,
    /// Model that serves it, if the client asked for an adapter or an alias.
    pub base_model: Option<String>,
    /// InferencePool or Service, as `NAMESPACE/NAME`.
    pub pool: String,
    /// Address of the endpoint that responded.
    pub endpoint: Option<String>,
    /// Status that the client got. 499: the client closed the request.
    pub status: u16,
    /// Error code of the gateway, if no engine responded or the response was aborted.
    pub error: Option<&'static str>,
    /// What the engine reported. `None`: it did not.
    pub tokens: Option<Tokens>,
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Time from the arrival of the request to the end of the response.
    pub duration: Duration,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// Of the prompt, from the prefix cache.
    pub cached: Option<u64>,
    /// Generated.
    pub completion: Option<u64>,
    /// Generated for reasoning. Part of `completion`.
    pub reasoning: Option<u64>,
}
