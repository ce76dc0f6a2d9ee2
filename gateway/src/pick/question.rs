use forebay_grpc::proto::{BodySendMode, Metadata, ProcessingRequest};
use http::request;

use super::message::{BodyModes, request_headers, with_hints};
use super::wanted::Wanted;
use crate::hold::HeldBody;

/// The parts of the response that a picker may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ResponseInterest {
    /// The picker is informed but does not reply.
    None,
    Headers,
    Body,
}

/// A request for a decision.
#[derive(Debug)]
pub(super) struct Question<'a, 'b> {
    pub(super) head: &'a mut request::Parts,
    pub(super) host: &'a str,
    /// `namespace/name` of the InferencePool.
    pub(super) pool: &'a str,
    pub(super) body: &'a mut HeldBody,
    /// Metadata of all messages.
    pub(super) metadata: Metadata,
    /// The parts of the response that the picker may change.
    pub(super) offered: ResponseInterest,
    pub(super) wanted: &'a mut Wanted<'b>,
}

impl Question<'_, '_> {
    /// The first message of an exchange.
    pub(super) fn headers(&self, request_body: BodySendMode, metadata: Metadata) -> ProcessingRequest {
        let response_body = match self.offered {
            ResponseInterest::Body => BodySendMode::FullDuplexStreamed,
            ResponseInterest::Headers | ResponseInterest::None => BodySendMode::None,
        };
        let modes = BodyModes { request: request_body, response: response_body };
        let metadata = with_hints(metadata, self.pool, self.wanted);
        request_headers(self.head, self.host, self.has_no_body(), modes, metadata)
    }

    pub(super) fn has_no_body(&self) -> bool {
        self.body.is_complete() && self.body.frames().is_empty()
    }
}
