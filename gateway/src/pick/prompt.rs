//! Sends the prompt of a request to a picker that takes it in messages, instead of the body.

use bytes::Bytes;
use forebay_epp::features::PromptSender;
use forebay_epp::schedule::{PromptReader, PromptSource as _};
use forebay_grpc::names::{METADATA_FOREBAY, PROMPT_TYPE};
use forebay_grpc::proto::{Any, Metadata, ProcessingRequest};
use http::request;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::hold::{HeldBody, RestObserver};

/// The prompt of one request for one replica.
#[derive(Debug)]
pub(super) struct SentPrompt {
    sender: PromptSender,
    /// There is something new to send.
    is_due: bool,
    /// The picker knows that no more follows before its decision.
    is_final: bool,
}

impl SentPrompt {
    /// Reads what is held of the body. `None` if the prompt cannot be read, so the decision does not depend on it.
    pub(super) fn new(head: &request::Parts, body: &HeldBody) -> Option<Box<Self>> {
        let reader = PromptReader::new(head.uri.path(), &head.headers)?.with_length(body.max_bytes());
        let mut sender = PromptSender::new(reader);
        for frame in body.frames() {
            sender.feed(frame);
        }
        Some(Box::new(Self { sender, is_due: true, is_final: false }))
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        self.sender.feed(data);
    }

    /// Whether there is something to send.
    pub(super) fn is_due(&mut self, body: &HeldBody) -> bool {
        self.is_due |= self.sender.has_news() || body.is_complete() || !body.may_hold_more();
        self.is_due && !self.is_final
    }

    /// The next message: adds what is new to `metadata`.
    pub(super) fn add_to(&mut self, metadata: &mut Metadata, body: &HeldBody) {
        if body.is_complete() {
            self.sender.finish();
        }
        let must_decide = !body.is_complete() && !body.may_hold_more();
        self.is_final = body.is_complete() || must_decide;
        // What is due for the first message was read before it.
        self.is_due = false;
        self.sender.has_news();
        add(&mut self.sender, metadata, must_decide);
    }

    /// The next message after the headers.
    pub(super) fn message(&mut self, body: &HeldBody) -> ProcessingRequest {
        let mut metadata = Metadata::default();
        self.add_to(&mut metadata, body);
        ProcessingRequest { metadata_context: Some(metadata), ..ProcessingRequest::default() }
    }

    /// The last message was sent.
    pub(super) fn sent(&mut self) {
        self.sender.sent();
    }

    /// The share of the body that was read.
    pub(super) fn read_share(&self) -> Option<f64> {
        self.sender.reader().read_share()
    }

    /// Reads the rest of the body while it is sent to the endpoint. The receiver gets the last message for the picker.
    pub(super) fn read_rest(self, body: &mut HeldBody) -> Option<RestOfPrompt> {
        if self.sender.reader().is_ended() {
            return None;
        }
        let (message, receiver) = oneshot::channel();
        let rest = Box::new(Rest { sender: self.sender, message });
        if body.is_complete() {
            // It was read while the picker decided.
            rest.end();
        } else {
            body.observe_rest(rest);
        }
        Some(receiver)
    }
}

/// The last message about a prompt, once the body was read to its end.
pub(super) type RestOfPrompt = oneshot::Receiver<ProcessingRequest>;

#[derive(Debug)]
struct Rest {
    sender: PromptSender,
    message: oneshot::Sender<ProcessingRequest>,
}

impl RestObserver for Rest {
    fn data(&mut self, data: &Bytes) {
        self.sender.feed(data);
    }

    fn end(mut self: Box<Self>) {
        self.sender.finish();
        let mut metadata = Metadata::default();
        add(&mut self.sender, &mut metadata, false);
        let message = ProcessingRequest { metadata_context: Some(metadata), ..ProcessingRequest::default() };
        // Fails if the request has ended.
        let _ = self.message.send(message);
    }
}

fn add(sender: &mut PromptSender, metadata: &mut Metadata, must_decide: bool) {
    let value = sender.message(must_decide).encode_to_vec();
    let prompt = Any { type_url: PROMPT_TYPE.to_owned(), value };
    metadata.typed_filter_metadata.insert(METADATA_FOREBAY.to_owned(), prompt);
}
