//! A request whose rule and backend are known.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use forebay_openai::{BodyScanner, ModelName};
use forebay_routing::{
    BASE_MODEL_NAME_HEADER, Backend, BeforeBody, ListenerRoutes, MODEL_NAME_HEADER, Matched,
};
use http::{Method, Response, request};

use super::access::{Asked, admit, is_preflight, reject_unmatched};
use super::authority::Authority;
use super::context::Context;
use super::filters::AppliedFilters;
use super::limits::count;
use super::received::{Received, check_policy};
use crate::auth::Caller;
use crate::error::Error;
use crate::hold::{self, ClientBody, HeldBody, ModelScan};
use crate::models::ModelLists;

#[derive(Debug)]
pub(super) struct Routed<'a> {
    pub(super) context: Context<'a>,
    pub(super) head: Box<request::Parts>,
    /// Boxed, because it is passed from stage to stage.
    pub(super) body: Box<HeldBody>,
    pub(super) authority: Authority,
    scheme: &'static str,
    pub(super) is_trusted: bool,
    pub(super) model: Option<ModelName>,
    /// Target of the alias by which the route was found.
    pub(super) alias_target: Option<&'a ModelName>,
    /// `None` if no policy has rules for the request.
    pub(super) caller: Option<Box<Caller<'a>>>,
    pub(super) matched: Matched<'a>,
    pub(super) backend: &'a Backend,
    pub(super) filters: AppliedFilters<'a>,
}

impl<'a> Routed<'a> {
    /// Reads the body until the model is known, if the route or the picker needs it. Selects the rule and the backend.
    #[expect(clippy::manual_async_fn, reason = "an async fn would store its argument twice")]
    pub(super) fn new(received: Received<'a>) -> impl Future<Output = Result<Self, Error>> + Send {
        async move {
            let Received { mut context, mut head, body, authority, scheme, listener, before_body, tokens } =
                received;
            let proxy = context.proxy;
            let scan = scan(&head, &body, listener, before_body)?;
            let is_scanned = !matches!(scan, ModelScan::None);
            let mut body =
                Box::new(HeldBody::new(body, proxy.budget.open(), scan, proxy.client_body_timeout)?);
            let mut model = None;
            if is_scanned {
                let start = Instant::now();
                model = body.read_model().await?;
                context.observe_model(model.as_ref(), start);
            }
            if let Some(model) = &model {
                set_model_headers(&mut head, listener, model);
            }
            let mut alias_target = None;
            let host = authority.host();
            let matched = match (before_body, &model) {
                (BeforeBody::NoRoute, _) => None,
                (BeforeBody::Decided(matched), None) => Some(matched),
                (BeforeBody::DependsOnModel { without: false }, None) if is_preflight(&head) => {
                    listener.route_preflight(host, &head)
                }
                (_, None) => listener.route(host, &head),
                (_, Some(model)) => {
                    route_model(&proxy.models, listener, host, &mut head, model, &mut alias_target).await
                }
            };
            let asked = Asked { via: context.via, host, model: model.as_ref(), target: alias_target };
            let Some(matched) = matched else {
                return Err(reject_unmatched(listener, Asked { target: None, ..asked }, &head, &tokens));
            };
            check_policy(matched.rule)?;
            let admitted = admit(listener, matched.rule, asked, &mut head, &tokens)?;
            context.record.identified(&admitted.identity);
            count(&mut context, (listener, matched.rule), &admitted.identity, asked, &head, &mut body)
                .await?;
            let caller = admitted.caller;
            let chosen = matched.rule.backends.choose();
            context.observe_routed(&head, listener, model.as_ref(), matched.rule, &chosen.backend);
            let filters = AppliedFilters::new(matched.rule, chosen, &head.headers);
            Ok(Self {
                context,
                head,
                body,
                authority,
                scheme,
                is_trusted: listener.is_trusted(),
                model,
                alias_target,
                caller,
                matched,
                backend: &chosen.backend,
                filters,
            })
        }
    }

    /// Breaks with the response of a filter, if a filter answers the request (redirect, CORS preflight).
    pub(super) fn answer_by_filter(self) -> Result<ControlFlow<Response<Bytes>, Self>, Error> {
        let host = self.authority.host();
        let port = self.context.via.port.port;
        let response =
            self.filters.response(&self.head, self.matched.prefix_bytes, host, self.scheme, port)?;
        Ok(response.map_or(ControlFlow::Continue(self), ControlFlow::Break))
    }
}

/// What the body is scanned for. If the route depends on the model, a body without one is an error. If only the picker,
/// metrics and policies use the model, it is not.
fn scan(
    head: &request::Parts,
    body: &ClientBody,
    listener: &ListenerRoutes,
    before_body: BeforeBody<'_>,
) -> Result<ModelScan, hold::Error> {
    let is_empty = body.is_end_stream();
    let has_model = !is_empty || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let is_lenient = match before_body {
        BeforeBody::DependsOnModel { without: false } => false,
        BeforeBody::DependsOnModel { without: true } => true,
        BeforeBody::Decided(matched) if matched.rule.backends.pools().next().is_some() => true,
        BeforeBody::Decided(matched) if listener.checks(Some(matched.rule)).reads_model() => true,
        BeforeBody::Decided(matched) if listener.quotas(Some(matched.rule)).reads_model() => true,
        BeforeBody::Decided(_) | BeforeBody::NoRoute => return Ok(ModelScan::None),
    };
    if !has_model {
        return Ok(ModelScan::None);
    }
    match (is_lenient, BodyScanner::new(&head.headers)) {
        (true, Ok(scanner)) if !is_empty => Ok(ModelScan::Lenient(scanner)),
        (true, _) => Ok(ModelScan::None),
        (false, scanner) => Ok(ModelScan::Strict(scanner?)),
    }
}

/// The rule for the model, whose headers are set, in this order: a rule that names the model; a rule for the target of the model's alias, which
/// is returned in `alias_target`; a rule for the base model that the endpoints report.
pub(super) async fn route_model<'a>(
    models: &ModelLists,
    listener: &'a ListenerRoutes,
    host: &str,
    head: &mut request::Parts,
    model: &ModelName,
    alias_target: &mut Option<&'a ModelName>,
) -> Option<Matched<'a>> {
    let matched = listener.route(host, head);
    if matched.is_some_and(|matched| matched.is_by_model) || listener.models().contains(model) {
        return matched;
    }
    *alias_target = listener.alias(model);
    let matched = match *alias_target {
        Some(target) => {
            set_model_headers(head, listener, target);
            let matched = listener.route(host, head);
            if let Some(name) = model.to_header_value() {
                head.headers.insert(MODEL_NAME_HEADER, name);
            }
            matched
        }
        None => matched,
    };
    let model = alias_target.unwrap_or(model);
    if matched.is_some_and(|matched| matched.is_by_model) || !listener.models().is_open_to(model) {
        return matched;
    }
    let Some(base) = models.base_of(&listener.pools(host), model.as_str()).await else {
        return matched;
    };
    head.headers.insert(BASE_MODEL_NAME_HEADER, base);
    listener.route(host, head)
}

/// Sets the headers with the model and its base model, on which routes match.
pub(super) fn set_model_headers(head: &mut request::Parts, listener: &ListenerRoutes, model: &ModelName) {
    let (name, base) = listener.models().headers(model);
    if let Some(name) = name {
        head.headers.insert(MODEL_NAME_HEADER, name);
    }
    match base {
        Some(base) => drop(head.headers.insert(BASE_MODEL_NAME_HEADER, base)),
        None => drop(head.headers.remove(BASE_MODEL_NAME_HEADER)),
    }
}
