//! Runs the stages of a request and writes its response.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use forebay_openai::ResponseScanner;
use forebay_routing::{ListenerPort, PortTls};
use http::{HeaderValue, Method, Request, Response, header, request};
use tracing::Instrument as _;

use super::admission::HeadSize;
use super::answered::Answered;
use super::context::Context;
use super::forwarded::Forwarded;
use super::left::{answer_limits, asks_for_limits};
use super::models::{answer_models, asks_for_models};
use super::prepared::Prepared;
use super::proxy::Proxy;
use super::received::Received;
use super::reserved::answer_reservation;
use super::routed::Routed;
use crate::accept::{ClientResponse, Handler, Via};
use crate::error::{Error, render};
use crate::hold::ClientBody;
use crate::observe::{EXPLANATION, Record};
use crate::response::ResponseBody;

/// What answers a request.
#[expect(clippy::large_enum_variant, reason = "short-lived, and almost always the large variant")]
enum Outcome {
    Upstream(Answered),
    Gateway(Response<Bytes>),
}

impl Handler for Proxy {
    type Body = ResponseBody;

    fn tls(&self, port: &ListenerPort) -> Option<Arc<PortTls>> {
        self.routes.load().table.ports.get(port)?.tls().cloned()
    }

    async fn handle(self: Arc<Self>, via: &Via, request: Request<ClientBody>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let head = Box::new(head);
        let mut record = Record::begin(self.metrics.clone(), self.logs.clone(), &head, &self.unknown_label);
        if let Some(traces) = &self.traces {
            let is_trusted =
                self.routes.load().table.ports.get(&*via.port).is_some_and(|port| port.is_trusted());
            record.trace(traces.begin(&head, is_trusted));
        }
        let size = HeadSize::of(&head);
        let (is_head, is_http1) = (head.method == Method::HEAD, head.version < http::Version::HTTP_2);
        // Disabled by default: then it is one atomic load. Boxed where it is not, because it needs a future of its own.
        let span = tracing::debug_span!("request", method = %head.method, path = head.uri.path());
        let outcome = if span.is_disabled() {
            self.run(via, head, size, body, &mut record).await
        } else {
            Box::pin(self.run(via, head, size, body, &mut record)).instrument(span).await
        };
        let mut response = self.respond(outcome, is_head, record);
        // The drain is checked last, because it may have begun meanwhile.
        if is_http1 && (size.is_large() || self.draining.load(Ordering::Relaxed)) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl ClientResponse for ResponseBody {
    fn client_stalled(&mut self) {
        self.client_stalled();
    }
}

impl Proxy {
    /// Runs the stages. They are moved, never borrowed, across an await: a borrowed stage would keep its place in the
    /// future for the whole request.
    async fn run(
        &self,
        via: &Via,
        mut head: Box<request::Parts>,
        size: HeadSize,
        body: ClientBody,
        record: &mut Record,
    ) -> Result<Outcome, Error> {
        let routes = self.routes.load_full();
        let mut context =
            Context { proxy: self, routes: &routes, via, record, reserves: false, counts_tokens: false };
        context.admit(&mut head, size)?;
        let mut received = Received::new(context, head, body)?;
        if asks_for_limits(&received) {
            // Boxed, so that it adds nothing to the future of other requests.
            received = match Box::pin(answer_limits(received)).await? {
                ControlFlow::Continue(received) => received,
                ControlFlow::Break(response) => return Ok(Outcome::Gateway(response)),
            };
        }
        if asks_for_models(&received) {
            received = match Box::pin(answer_models(received)).await? {
                ControlFlow::Continue(received) => received,
                ControlFlow::Break(response) => return Ok(Outcome::Gateway(response)),
            };
        }
        let routed = match Routed::new(received).await?.answer_by_filter()? {
            ControlFlow::Continue(routed) => routed,
            ControlFlow::Break(response) => return Ok(Outcome::Gateway(response)),
        };
        let prepared = Prepared::new(routed).await?;
        if prepared.context.reserves {
            // Boxed, so that it adds nothing to the future of other requests.
            return Box::pin(answer_reservation(prepared)).await.map(Outcome::Gateway);
        }
        let forwarded = Forwarded::new(prepared).await?;
        Ok(Outcome::Upstream(Answered::new(forwarded).await?))
    }

    fn respond(
        &self,
        outcome: Result<Outcome, Error>,
        is_head: bool,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let explanation = record.explanation();
        let mut response = match outcome {
            Ok(Outcome::Upstream(Answered { mut response, state })) => {
                record.responding(response.status());
                record.set_rate_limit_headers(response.headers_mut());
                let scanner = ResponseScanner::new(response.headers());
                if scanner.is_event_stream() {
                    record.streams();
                }
                let idle_timeout = self.stream_idle_timeout;
                response.map(|body| ResponseBody::upstream(body, state, record, scanner, idle_timeout))
            }
            Ok(Outcome::Gateway(response)) => {
                record.responding(response.status());
                record.complete();
                response.map(ResponseBody::complete)
            }
            Err(error) => {
                record.failed(error.code());
                record.responding(error.status());
                let mut response = render(&error);
                record.set_rate_limit_headers(response.headers_mut());
                record.complete();
                if is_head {
                    // The response has no content. Some clients would try to parse it because of its type.
                    response.headers_mut().remove(header::CONTENT_TYPE);
                }
                response.map(ResponseBody::complete)
            }
        };
        if let Some(explanation) = explanation {
            response.headers_mut().insert(EXPLANATION, explanation);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future is stored in the connection and moved once per request.
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size_of_future<'a, F>(_: impl FnOnce(Arc<Proxy>, &'a Via, Request<ClientBody>) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_future(|proxy, via, request| proxy.handle(via, request));
        assert!(bytes <= 6 << 10, "{bytes} bytes");
    }
}
