//! What is passed from stage to stage, and the observation of their transitions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_openai::ModelName;
use forebay_routing::{BASE_MODEL_NAME_HEADER, Backend, ListenerRoutes, Rule};
use http::{HeaderMap, request};

use super::proxy::{Proxy, Routes};
use crate::accept::Via;
use crate::forward;
use crate::observe::{Explanation, Record};
use crate::pick::ChosenBy;

#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) proxy: &'a Proxy,
    /// The snapshot that the request uses from start to end.
    pub(super) routes: &'a Routes,
    pub(super) via: &'a Via,
    pub(super) record: &'a mut Record,
    /// The client asks only which endpoint would be picked.
    pub(super) reserves: bool,
    /// A rate limit counts the tokens of the request.
    pub(super) counts_tokens: bool,
}

impl Context<'_> {
    /// Received: the listener is known, so it is known whether the client may ask for an explanation.
    pub(super) fn observe_received(&mut self, headers: &mut HeaderMap, listener: &ListenerRoutes) {
        let port = self.via.port.port;
        // The header was removed from the requests of other clients.
        if listener.is_trusted() {
            self.record.explain_to(Explanation::requested(headers));
        }
        self.record.explain(|it| it.listener = format!("port {port}, hostname {}", listener.name()));
    }

    /// The body was read since `start`, until the model was known.
    pub(super) fn observe_model(&mut self, model: Option<&ModelName>, start: Instant) {
        let elapsed = start.elapsed();
        self.record.waited(elapsed);
        self.record.explain(|it| {
            it.model = model.and_then(ModelName::to_header_value);
            it.extract = Some(elapsed);
        });
    }

    /// Routed: the rule and the backend are known.
    pub(super) fn observe_routed(
        &mut self,
        head: &request::Parts,
        listener: &ListenerRoutes,
        model: Option<&ModelName>,
        rule: &Rule,
        backend: &Backend,
    ) {
        let base = || head.headers.get(BASE_MODEL_NAME_HEADER);
        self.record.explain(|it| {
            it.base_model = base().cloned();
            it.rule = Some(rule.origin.clone());
            it.backend = backend.label().cloned();
        });
        if let Some(model) = model {
            self.record.asked_for(model, base());
        }
        // Only names from resources become labels.
        let of_base = || listener.label(base()?.to_str().ok()?);
        let model = model.and_then(|model| listener.label(model.as_str()).or_else(of_base));
        let unknown = &self.proxy.unknown_label;
        self.record.routed(model.unwrap_or(unknown), backend.label().unwrap_or(unknown));
    }

    /// The body was read since `start`, for the rewrite, the rate limits or the usage.
    pub(super) fn observe_read(&mut self, start: Instant) {
        self.record.waited(start.elapsed());
    }

    /// The body was read since `start`, for the decision. Returns the time after that.
    pub(super) fn observe_prompt(&mut self, start: Instant) -> Instant {
        let now = Instant::now();
        self.record.waited(now.duration_since(start));
        now
    }

    /// The picker made a decision, or failed, after `elapsed`. `explanation`: the picker's.
    pub(super) fn observe_picked(&mut self, elapsed: Duration, explanation: Option<&str>) {
        self.record.picked(elapsed);
        self.record.explain(|it| {
            it.pick = Some(elapsed);
            it.explained(explanation);
        });
    }

    /// The request is about to be sent at `now`. `body_share`: what was read of the body for the decision.
    pub(super) fn observe_sending(
        &mut self,
        endpoints: &[SocketAddr],
        chosen_by: ChosenBy,
        body_share: Option<f64>,
        now: Instant,
    ) {
        self.record.sending(now);
        self.record.explain(|it| {
            it.chosen(endpoints, Some(chosen_by.to_string()));
            it.body_share = body_share.or(it.body_share);
        });
    }

    /// Forwarded: the response head has arrived. The request was sent after `start`.
    pub(super) fn observe_forwarded(&mut self, forwarded: &forward::Forwarded, start: Instant) {
        self.record.explain(|it| {
            it.served_by = Some(forwarded.endpoint);
            it.attempts = Some(forwarded.attempts);
            it.upstream = Some(start.elapsed());
        });
    }
}
