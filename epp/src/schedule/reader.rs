//! Reads the prompt of one request while its body streams.

use forebay_grpc::names::{MODEL_NAME, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use forebay_openai::{
    BodyScanner, ModelScanner, PlainScanner, PromptScanner, RequestKind, prompt_seed, seeded_block,
};
use http::{HeaderMap, header};

use super::prompt::Prompt;

/// Bytes of prompt after which the decision is tried first.
const FIRST_TRY_BYTES: u64 = Prompt::BLOCK_BYTES;
/// The next try is after this share of what was read, so that the tries cost in proportion to the body.
const NEXT_TRY_SHARE: u64 = 8;

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
    /// What was known besides the turns when they first differed from those that the endpoints hold.
    at_divergence: Option<Rest>,
}

/// The model or adapter that the engine runs.
#[derive(Debug)]
enum Model {
    Known(String),
    InBody(ModelScanner),
    /// The body is not valid, so no engine answers it.
    Unknown,
}

/// What the keys of the blocks depend on besides the turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    context: u64,
    seed: u64,
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
        let text = |name: &str| headers.get(name).and_then(|value| str::from_utf8(value.as_bytes()).ok());
        let names = [MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS, MODEL_NAME];
        let model = names.into_iter().find_map(text).filter(|model| !model.is_empty());
        Some(Self {
            scanner: PromptScanner::new(kind),
            model: model.map_or(Model::InBody(in_body), |model| Model::Known(model.to_owned())),
            reports_first_byte: true,
            read_bytes: 0,
            length: text(header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()),
            is_ended: false,
            next_try: FIRST_TRY_BYTES,
            at_divergence: None,
        })
    }

    /// Whether somebody calls [`Pick::first_byte`](super::Pick::first_byte) if the response is a stream.
    #[must_use]
    pub fn with_first_byte(self, reports_first_byte: bool) -> Self {
        Self { reports_first_byte, ..self }
    }

    /// The size of the body, if it is known from elsewhere than a `Content-Length`.
    #[must_use]
    pub fn with_length(self, length: Option<u64>) -> Self {
        Self { length: length.or(self.length), ..self }
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

    /// Whether the body was read to its end.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The share of the body that was read. `None` if its size is not known.
    pub fn read_share(&self) -> Option<f64> {
        match self.length {
            _ if self.is_ended => Some(1.0),
            Some(length) if length > 0 => Some((self.read_bytes as f64 / length as f64).min(1.0)),
            _ => None,
        }
    }

    /// The prompt as far as it was read. The size of the rest is estimated from the size of the body.
    pub fn prompt(&self) -> Prompt {
        let body_bytes = self.length.unwrap_or(0).max(self.read_bytes);
        let mut prompt = Prompt::from_scanner(&self.scanner, self.model().unwrap_or_default(), body_bytes);
        if !self.is_ended && !self.scanner.is_complete() {
            prompt.bytes += body_bytes - self.read_bytes;
        }
        prompt.is_streamed &= self.reports_first_byte;
        prompt
    }

    fn model(&self) -> Option<&str> {
        match &self.model {
            Model::Known(model) => Some(model),
            Model::InBody(scanner) => scanner.model().map(|model| model.as_str()),
            Model::Unknown => None,
        }
    }

    /// The last block that was read, if enough was read since the last call and the key of the block is known.
    pub(crate) fn block_to_try(&mut self) -> Option<u64> {
        let bytes = self.scanner.prompt_bytes();
        if bytes < self.next_try {
            return None;
        }
        let seed = self.seed()?;
        self.next_try = bytes + (bytes / NEXT_TRY_SHARE).max(FIRST_TRY_BYTES);
        let turn = self.scanner.turn_blocks().last().copied();
        turn.or_else(|| self.scanner.context_blocks().last()).map(|block| seeded_block(seed, block))
    }

    /// No endpoint holds the last block.
    pub(crate) fn diverged(&mut self) {
        if self.at_divergence.is_none() {
            self.at_divergence = self.rest();
        }
    }

    /// Whether members that changed the keys followed the block at which the prompt differs from all others. `None` if the
    /// end or such a block was not reached.
    pub(crate) fn changed_after_divergence(&self) -> Option<bool> {
        let before = self.at_divergence.filter(|_| self.is_ended)?;
        Some(self.rest() != Some(before))
    }

    fn rest(&self) -> Option<Rest> {
        Some(Rest { context: self.scanner.context_digest(), seed: self.seed()? })
    }

    fn seed(&self) -> Option<u64> {
        self.model().map(|model| prompt_seed(model, self.scanner.cache_salt()))
    }
}
