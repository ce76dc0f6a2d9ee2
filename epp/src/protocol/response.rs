//! What is learned of a response.

use forebay_grpc::proto::HttpHeaders;
use forebay_openai::{Finding, ResponseScanner};

use super::metadata;
use crate::schedule::{Outcome, Pick};

/// The response of one request, as far as the gateway has sent it.
#[derive(Debug, Default)]
pub(super) struct ResponseState {
    /// `None` before the response headers.
    outcome: Option<Outcome>,
    /// Set while the first byte of the content is awaited.
    awaited: Option<Box<ResponseScanner>>,
}

impl ResponseState {
    pub(super) fn on_headers(&mut self, headers: &HttpHeaders, pick: &mut Pick) {
        let is_failed = metadata::status(headers).is_some_and(|status| status >= 500);
        if is_failed {
            pick.set_outcome(Outcome::Failed);
        }
        self.outcome = Some(if is_failed { Outcome::Failed } else { Outcome::Succeeded });
        let names = ["content-type", "content-encoding"];
        self.awaited = Some(Box::new(ResponseScanner::new(&metadata::http_headers(headers, &names))));
    }

    /// Comments of an event stream do not count as content: engines and proxies send them to keep the connection open.
    pub(super) fn on_body(&mut self, bytes: &[u8], pick: &Pick) {
        let Some(scanner) = &mut self.awaited else { return };
        let mut has_content = !bytes.is_empty() && !scanner.is_event_stream();
        scanner.feed(bytes, |finding| has_content |= finding == Finding::FirstEvent);
        if has_content {
            self.awaited = None;
            pick.first_byte();
        }
    }

    /// The gateway ended the stream regularly. A request without a response says nothing about the endpoint.
    pub(super) fn on_end(&self, pick: &mut Pick) {
        pick.set_outcome(self.outcome.unwrap_or(Outcome::Unknown));
    }
}
