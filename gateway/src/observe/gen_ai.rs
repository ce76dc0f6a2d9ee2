//! Metrics with the names of OpenTelemetry's conventions for generative AI, as a client of the model servers.

use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forebay_openai::Usage;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::exemplars::{Durations, TraceLabels, observe};

/// The bounds of the conventions, and more for long responses.
const DURATION_SECONDS: [f64; 17] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
    655.36,
];
/// The bounds of the conventions.
const TOKENS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];

/// `gen_ai.operation.name`.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Operation {
    Chat,
    TextCompletion,
    Responses,
    Messages,
    Embeddings,
    Transcription,
    /// Unknown paths share one value, which bounds the number of series and of span names.
    Other,
}

const OPERATIONS: usize = Operation::Other as usize + 1;

impl Operation {
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::TextCompletion,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/audio/transcriptions" => Self::Transcription,
            _ => Self::Other,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::Transcription => "transcription",
            Self::Other => "request",
        }
    }
}

/// `error.type`.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum ErrorType {
    /// Status of an error response; 499 if the client closed the request.
    Status(u16),
    /// Error code of a response that was aborted after a status of success.
    Code(&'static str),
}

impl EncodeLabelValue for ErrorType {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.encode(encoder),
            Self::Code(code) => encoder.write_str(code),
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: Arc<str>,
    /// Empty, which is absent for Prometheus, if the operation succeeded.
    error_type: Option<ErrorType>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UsageLabels {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: Arc<str>,
    gen_ai_token_type: &'static str,
}

/// The metrics of all models.
#[derive(Clone, Debug)]
pub(super) struct GenAiMetrics {
    durations: Family<OperationLabels, Durations, fn() -> Durations>,
    tokens: Family<UsageLabels, Histogram, fn() -> Histogram>,
}

impl GenAiMetrics {
    pub(super) fn new() -> Self {
        Self {
            durations: Family::new_with_constructor(|| Durations::new(DURATION_SECONDS.into_iter())),
            tokens: Family::new_with_constructor(|| Histogram::new(TOKENS)),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "gen_ai_client_operation_duration",
            "Time from the arrival of the request at the gateway to the end of the response, of paths of the OpenAI API",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "gen_ai_client_token_usage",
            "Tokens of a request that the engine reports in usage",
            self.tokens.clone(),
        );
    }

    /// The series of a model.
    pub(super) fn of(&self, model: &Arc<str>) -> GenAiSeries {
        GenAiSeries {
            metrics: self.clone(),
            model: model.clone(),
            succeeded: Default::default(),
            used: Default::default(),
        }
    }
}

/// The series of one model. A request that succeeds allocates nothing once each series exists.
#[derive(Debug)]
pub(super) struct GenAiSeries {
    metrics: GenAiMetrics,
    model: Arc<str>,
    succeeded: [OnceLock<Durations>; OPERATIONS],
    /// Input and output.
    used: [OnceLock<[Histogram; 2]>; OPERATIONS],
}

impl GenAiSeries {
    /// Records the end of a request. Other paths are not operations on a model.
    pub(super) fn ended(
        &self,
        operation: Operation,
        (took, trace): (Duration, Option<TraceLabels>),
        error: Option<ErrorType>,
        usage: Option<Usage>,
    ) {
        if operation == Operation::Other {
            return;
        }
        match error {
            None => {
                let known = self.succeeded[operation as usize].get_or_init(|| self.duration(operation, None));
                observe(known, took, trace);
            }
            Some(_) => observe(&self.duration(operation, error), took, trace),
        }
        let Some(usage) = usage else { return };
        let [input, output] = self.used[operation as usize]
            .get_or_init(|| ["input", "output"].map(|kind| self.tokens(operation, kind)));
        for (histogram, tokens) in [(input, usage.prompt_tokens), (output, usage.completion_tokens)] {
            if let Some(tokens) = tokens {
                histogram.observe(tokens as f64);
            }
        }
    }

    fn duration(&self, operation: Operation, error_type: Option<ErrorType>) -> Durations {
        self.metrics.durations.get_or_create_owned(&OperationLabels {
            gen_ai_operation_name: operation.name(),
            gen_ai_request_model: self.model.clone(),
            error_type,
        })
    }

    fn tokens(&self, operation: Operation, kind: &'static str) -> Histogram {
        self.metrics.tokens.get_or_create_owned(&UsageLabels {
            gen_ai_operation_name: operation.name(),
            gen_ai_request_model: self.model.clone(),
            gen_ai_token_type: kind,
        })
    }
}
