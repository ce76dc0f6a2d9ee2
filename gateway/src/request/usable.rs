//! The models that a caller may use.

use std::collections::HashSet;

use forebay_openai::ModelName;
use http::{Method, Uri, request};

use super::access::{Asked, admit, authenticate_without_rule};
use super::received::{Received, check_policy};
use super::routed::{route_model, set_model_headers};
use crate::auth;
use crate::error::Error;
use crate::models::Listed;

/// A model is listed if a request to one of these paths could use it.
const PATHS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"];

/// Removes the models that the caller may not use. Fails if it is not authenticated for any of them.
pub(super) async fn retain_usable(listed: &mut Listed, received: &Received<'_>) -> Result<(), Error> {
    if !received.listener.is_restricted() {
        return Ok(());
    }
    if listed.ids().next().is_none() {
        // Why there is no model names pools.
        authenticate_without_rule(received.listener, &received.head, &received.tokens)?;
        return Ok(());
    }
    let mut hidden = HashSet::new();
    let mut not_authenticated = None;
    for id in listed.ids() {
        match check(received, id).await {
            Ok(()) => {}
            Err(error) => {
                hidden.insert(id.to_owned());
                if !matches!(error, Error::Auth(auth::Error::Denied)) {
                    not_authenticated.get_or_insert(error);
                }
            }
        }
    }
    listed.hide(&hidden);
    match not_authenticated {
        Some(error @ Error::Auth(_)) if listed.ids().next().is_none() => Err(error),
        _ => Ok(()),
    }
}

/// Whether the caller may use the model in any way.
async fn check(received: &Received<'_>, id: &str) -> Result<(), Error> {
    let mut result = Err(auth::Error::Denied.into());
    let Some(model) = ModelName::parse(id.as_bytes()) else { return result };
    for path in PATHS {
        let mut head = received.head.clone();
        head.method = Method::POST;
        head.uri = Uri::from_static(path);
        result = check_path(received, &model, &mut head).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn check_path(
    received: &Received<'_>,
    model: &ModelName,
    head: &mut request::Parts,
) -> Result<(), Error> {
    let (listener, host, via) = (received.listener, received.host(), received.context.via);
    let lists = &received.context.proxy.models;
    set_model_headers(head, listener, model);
    let mut alias_target = None;
    let matched = route_model(lists, listener, host, head, model, &mut alias_target).await;
    let rule = matched.ok_or(auth::Error::Denied)?.rule;
    check_policy(rule)?;
    // Any of the targets may be chosen for the request.
    let rewrites = rule.backends.pools().filter_map(|pool| pool.rewrites.as_ref()?.targets(model));
    let mut targets: Vec<Option<&ModelName>> =
        rewrites.flat_map(|targets| targets.names()).map(Some).collect();
    targets.push(alias_target);
    let with_credentials = head.headers.clone();
    for target in targets {
        head.headers.clone_from(&with_credentials);
        admit(listener, rule, Asked { via, host, model: Some(model), target }, head, &received.tokens)?;
    }
    Ok(())
}
