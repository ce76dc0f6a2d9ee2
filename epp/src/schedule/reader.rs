//! Reads the prompt of one request while its body streams.

use std::borrow::Cow;

use forebay_grpc::names::{MODEL_NAME, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use forebay_openai::{
    BodyScanner, ModelScanner, PlainScanner, PromptScanner, RequestKind, prompt_seed, seeded_block,
};
use http::{HeaderMap, HeaderName, header};

use super::prompt::{MAX_BODY_BYTES, Prompt};
use super::source::PromptSource;

/// Bytes of prompt after which the decision is tried first.
const FIRST_TRY_BYTES: u64 = Prompt::BLOCK_BYTES;
/// The next try is after this share of what was read, so that the tries cost in proportion to the body.
const NEXT_TRY_SHARE: u64 = 8;

/// Headers with the model or adapter that the engine runs. The first one counts.
static MODEL_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static(MODEL_NAME_REWRITE),
    HeaderName::from_static(MODEL_NAME_REWRITE_ALIAS),
    HeaderName::from_static(MODEL_NAME),
];

/// Reads the prompt of one request while its body streams.
#[derive(Debug)]
pub struct PromptReader {
    scanner: PromptScanner,
    model: Model,
    reports_first_byte: bool,
    /// Bytes of the body that were read.
    read_bytes: u64,
    /// Of the body.
    length: Option<u64>,
    is_ended: bool,
    next_try: u64,
    /// The key when the turns first differed from those that the endpoints hold.
    at_divergence: Option<u64>,
}

/// The model or adapter that the engine runs.
#[derive(Debug)]
enum Model {
    Known(String),
    InBody(ModelScanner),
    /// The body is not valid, so no engine answers it.
    Unknown,
}

impl PromptReader {
    /// `path` may have a query. The model is in `headers` (`x-gateway-model-name`), else in the body.
    ///
    /// `None` if the body is not the uncompressed JSON of a known kind of request.
    pub fn new(path: &str, headers: &HeaderMap) -> Option<Self> {
        let kind = RequestKind::of_path(path.split('?').next().unwrap_or_default())?;
        let Ok(BodyScanner::Plain(PlainScanner::Json(in_body))) = BodyScanner::new(headers) else {
            return None;
        };
        let text = |name: &HeaderName| str::from_utf8(headers.get(name)?.as_bytes()).ok();
        let model = MODEL_HEADERS.iter().find_map(text).filter(|model| !model.is_empty());
        let length = text(&header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let reader = Self {
            scanner: PromptScanner::new(kind),
            model: model.map_or(Model::InBody(in_body), |model| Model::Known(model.to_owned())),
            reports_first_byte: true,
            read_bytes: 0,
            length: None,
            is_ended: false,
            next_try: FIRST_TRY_BYTES,
            at_divergence: None,
        };
        Some(reader.with_length(length))
    }

    /// Whether somebody calls [`Pick::first_byte`](super::Pick::first_byte) if the response is a stream.
    #[must_use]
    pub fn with_first_byte(self, reports_first_byte: bool) -> Self {
        Self { reports_first_byte, ..self }
    }

    /// The size of the body, if it is known from elsewhere than a `Content-Length`.
    #[must_use]
    pub fn with_length(self, length: Option<u64>) -> Self {
        Self { length: length.map(|length| length.min(MAX_BODY_BYTES)).or(self.length), ..self }
    }

    /// Reads the next bytes of the body, split anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.read_bytes += bytes.len() as u64;
        self.scanner.feed(bytes);
        if let Model::InBody(scanner) = &mut self.model
            && scanner.feed(bytes).is_err()
        {
            self.model = Model::Unknown;
        }
    }

    /// Says that the body has ended.
    pub fn finish(&mut self) {
        self.scanner.finish();
        self.is_ended = true;
    }

    fn model(&self) -> Option<&str> {
        match &self.model {
            Model::Known(model) => Some(model),
            Model::InBody(scanner) => scanner.model().map(|model| model.as_str()),
            Model::Unknown => None,
        }
    }

    fn seed(&self) -> Option<u64> {
        self.model().map(|model| prompt_seed(model, self.scanner.cache_salt()))
    }
}

impl PromptSource for PromptReader {
    fn model(&self) -> Option<&str> {
        Self::model(self)
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn read_share(&self) -> Option<f64> {
        match self.length {
            _ if self.is_ended => Some(1.0),
            Some(length) if length > 0 => Some((self.read_bytes as f64 / length as f64).min(1.0)),
            _ => None,
        }
    }

    fn prompt(&self) -> Cow<'_, Prompt> {
        let body_bytes = self.length.unwrap_or(0).max(self.read_bytes);
        let mut prompt = Prompt::from_scanner(&self.scanner, self.model().unwrap_or_default(), body_bytes);
        if !self.is_ended && !self.scanner.is_complete() {
            prompt.bytes += body_bytes - self.read_bytes;
        }
        prompt.is_streamed &= self.reports_first_byte;
        Cow::Owned(prompt)
    }

    fn key(&self) -> Option<u64> {
        Some(seeded_block(self.seed()?, self.scanner.context_digest()))
    }

    /// At most once per block, and once per eighth of what was read.
    fn block_to_try(&mut self) -> Option<u64> {
        let bytes = self.scanner.prompt_bytes();
        if bytes < self.next_try {
            return None;
        }
        let seed = self.seed()?;
        self.next_try = bytes + (bytes / NEXT_TRY_SHARE).max(FIRST_TRY_BYTES);
        let turn = self.scanner.turn_blocks().last().copied();
        turn.or_else(|| self.scanner.context_blocks().last()).map(|block| seeded_block(seed, block))
    }

    fn divergence(&self) -> Option<u64> {
        self.at_divergence
    }

    fn diverged(&mut self) {
        if self.at_divergence.is_none() {
            self.at_divergence = self.key();
        }
    }
}
