//! The generated output of one request: ids and text. The API modules render it as JSON.

use crate::request::{Job, Kind};

const WORDS: [&str; 8] = [" the", " pool", " before", " a", " turbine", " holds", " still", " water"];

/// Output of one request.
pub(crate) struct Output<'a> {
    pub(crate) job: &'a Job,
    request_id: String,
    id: String,
    created: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(job: &'a Job, request_id: &str, created: u64) -> Self {
        let prefix = match job.kind {
            Kind::Chat => "chatcmpl-",
            Kind::Completion => "cmpl-",
            Kind::Response => "resp_",
        };
        Self { job, request_id: request_id.to_owned(), id: format!("{prefix}{request_id}"), created }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    pub(crate) fn model(&self) -> &str {
        &self.job.model
    }

    pub(crate) fn max_tokens(&self) -> u32 {
        self.job.max_tokens
    }

    /// The complete generated text.
    pub(crate) fn text(&self) -> String {
        (0..self.job.max_tokens).map(word).collect()
    }
}

/// The token with this index; the text repeats [`WORDS`].
pub(crate) fn word(index: u32) -> &'static str {
    WORDS[index as usize % WORDS.len()]
}
