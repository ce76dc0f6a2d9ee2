//! Checks of the policies that restrict who may send a request.

use forebay_openai::ModelName;
use forebay_routing::{
    BASE_MODEL_NAME_HEADER, BeforeBody, Identity, ListenerRoutes, ModelNames, RequestAttributes, Rule,
};
use http::request;

use crate::accept::Via;
use crate::auth::{self, Caller, Tokens, authenticate, authenticate_any, authorize, remove_credentials};
use crate::error::Error;

/// What is known of a request besides its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'r> {
    pub(super) via: &'r Via,
    /// Without a port.
    pub(super) host: &'r str,
    pub(super) model: Option<&'r ModelName>,
    /// The model that replaces it.
    pub(super) target: Option<&'r ModelName>,
}

/// Rejects callers before the body is read, as far as the rule does not matter. Preflights are checked when it is known
/// whether a filter answers them.
pub(super) fn check_early<'a>(
    listener: &'a ListenerRoutes,
    before_body: BeforeBody<'a>,
    head: &request::Parts,
    tokens: &Tokens<'a>,
) -> Result<(), Error> {
    if is_preflight(head) {
        return Ok(());
    }
    let rule = match before_body {
        BeforeBody::Decided(matched) => Some(matched.rule),
        BeforeBody::DependsOnModel { .. } | BeforeBody::NoRoute => None,
    };
    authenticate(&listener.early_checks(rule), &head.headers, tokens)?;
    Ok(())
}

/// A caller that may send a request.
#[derive(Debug, Default)]
pub(super) struct Admitted<'a> {
    pub(super) identity: Identity<'a>,
    /// `None` if no policy has rules for the request.
    pub(super) caller: Option<Box<Caller<'a>>>,
}

/// Authenticates and authorizes a request that `rule` answers, and removes its credentials.
pub(super) fn admit<'a>(
    listener: &'a ListenerRoutes,
    rule: &'a Rule,
    asked: Asked<'_>,
    head: &mut request::Parts,
    tokens: &Tokens<'a>,
) -> Result<Admitted<'a>, Error> {
    if is_answered_preflight(rule, head) {
        return Ok(Admitted::default());
    }
    let checks = listener.checks(Some(rule));
    let identity = authenticate(&checks, &head.headers, tokens)?;
    remove_credentials(&checks, &mut head.headers);
    let request = attributes(asked.host, head);
    let caller = authorize(checks, request, source(asked.via), &identity, models(asked, head))?;
    Ok(Admitted { identity, caller })
}

/// The error of a request that no rule matches. A caller that may not use all models is not told whether one exists.
pub(super) fn reject_unmatched<'a>(
    listener: &'a ListenerRoutes,
    asked: Asked<'_>,
    head: &request::Parts,
    tokens: &Tokens<'a>,
) -> Error {
    check_unmatched(listener, asked, head, tokens)
        .err()
        .unwrap_or_else(|| asked.model.map_or(Error::NoRoute, |model| Error::UnknownModel(model.clone())))
}

/// Authenticates the caller of a request for which no rule is known: by the listener, else by any of its rules.
pub(super) fn authenticate_without_rule<'a>(
    listener: &'a ListenerRoutes,
    head: &request::Parts,
    tokens: &Tokens<'a>,
) -> Result<Identity<'a>, Error> {
    let checks = listener.checks(None);
    let identity = authenticate(&checks, &head.headers, tokens)?;
    if !checks.authenticates() {
        authenticate_any(listener.authenticating_rules(), &head.headers, tokens)?;
    }
    Ok(identity)
}

fn check_unmatched<'a>(
    listener: &'a ListenerRoutes,
    asked: Asked<'_>,
    head: &request::Parts,
    tokens: &Tokens<'a>,
) -> Result<(), Error> {
    let identity = authenticate_without_rule(listener, head, tokens)?;
    let (checks, request) = (listener.checks(None), attributes(asked.host, head));
    authorize(checks, request, source(asked.via), &identity, models(asked, head))?;
    match asked.model {
        Some(_) if listener.has_restricted_rule() => Err(auth::Error::Denied.into()),
        _ => Ok(()),
    }
}

/// Whether a filter answers the request. Browsers send no credentials with a preflight.
pub(super) fn is_answered_preflight(rule: &Rule, head: &request::Parts) -> bool {
    let cors = rule.filters.as_ref().and_then(|filters| filters.cors.as_ref());
    is_preflight(head) && cors.is_some_and(|cors| cors.preflight(head).is_some())
}

pub(super) fn is_preflight(head: &request::Parts) -> bool {
    head.method == http::Method::OPTIONS
        && head.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

pub(super) fn attributes<'h>(host: &'h str, head: &'h request::Parts) -> RequestAttributes<'h> {
    RequestAttributes { method: &head.method, path: head.uri.path(), host, headers: &head.headers }
}

/// IP address of the client.
pub(super) fn source(via: &Via) -> &str {
    via.client.to_str().unwrap_or_default()
}

pub(super) fn models<'m>(asked: Asked<'m>, head: &'m request::Parts) -> ModelNames<'m> {
    let base = head.headers.get(BASE_MODEL_NAME_HEADER).and_then(|base| base.to_str().ok());
    ModelNames {
        requested: asked.model.map(ModelName::as_str),
        base: base.filter(|_| asked.model.is_some()),
        target: asked.target.map(ModelName::as_str),
    }
}
