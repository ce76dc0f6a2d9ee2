//! Takes requests from the rate limits of policies and from quotas.

use std::sync::Arc;
use std::time::Instant;

use forebay_openai::GenerationOptions;
use forebay_resources::QuotaMode;
use forebay_routing::{
    AppliedQuota, Checks, Identity, ListenerRoutes, PolicyLimits, QuotaModels, Rule, Variables,
};
use http::request;
use smallvec::SmallVec;

use super::access::{Asked, attributes, is_answered_preflight, models, source};
use super::context::Context;
use crate::error::Error;
use crate::hold::HeldBody;
use crate::limit::{self, Answer, Expected, GlobalRejection, Question, QuotaRejection, Rejection};

/// Takes a request that may be sent from all rate limits and quotas that apply to it, or fails.
pub(super) async fn count<'a>(
    context: &mut Context<'_>,
    (listener, rule): (&'a ListenerRoutes, &'a Rule),
    identity: &Identity<'_>,
    asked: Asked<'_>,
    head: &request::Parts,
    body: &mut HeldBody,
) -> Result<(), Error> {
    let checks = listener.checks(Some(rule));
    let has_quotas = !listener.quotas(Some(rule)).is_empty();
    if (checks.limits().next().is_none() && !has_quotas) || is_answered_preflight(rule, head) {
        return Ok(());
    }
    let reads_request =
        checks.limits().any(|policy| policy.reads_request()) || listener.quotas(Some(rule)).reads_request();
    let request = reads_request.then(|| attributes(asked.host, head));
    let variables = Variables::new(request, source(asked.via), identity, models(asked, head));
    let quotas = if has_quotas { applied(listener, rule, asked, &variables)? } else { Vec::new() };
    let counts_tokens = checks.limits().any(|policy| policy.counts_tokens())
        || quotas.iter().any(|applied| applied.quota.counts_tokens());
    context.counts_tokens = asked.model.is_some() && counts_tokens;
    if context.counts_tokens && body.is_replayable() && GenerationOptions::can_read(&head.headers) {
        let start = Instant::now();
        body.read_all().await?;
        context.observe_read(start);
    }
    let expected = context.counts_tokens.then(|| expected(listener, asked, head, body));
    // Boxed, so that it adds nothing to the future of requests without limits.
    Box::pin(take(context, &checks, quotas, &variables, expected)).await
}

/// The quotas for a request. Fails if one of them that is enforced cannot price it.
fn applied<'a: 'v, 'v>(
    listener: &'a ListenerRoutes,
    rule: &'a Rule,
    asked: Asked<'_>,
    variables: &'v Variables<'_>,
) -> Result<Vec<AppliedQuota<'a, 'v>>, Error> {
    let models = variables.models();
    let names: SmallVec<[&str; 3]> =
        [models.requested, models.base, models.target].into_iter().flatten().collect();
    let applied = listener.quotas(Some(rule)).applied(QuotaModels::Request(&names), variables);
    let unpriced = applied.iter().find(|applied| {
        let quota = applied.quota;
        quota.mode == QuotaMode::Enforce && quota.counts_money() && applied.price.is_none()
    });
    match (unpriced, asked.model) {
        (Some(applied), Some(model)) => {
            Err(Error::UnpricedModel { quota: applied.quota.key.clone(), model: model.clone() })
        }
        _ => Ok(applied),
    }
}

/// What is known of the tokens before the request is sent.
fn expected(listener: &ListenerRoutes, asked: Asked<'_>, head: &request::Parts, body: &HeldBody) -> Expected {
    let model = asked.model.and_then(|model| listener.label(model.as_str())).cloned();
    // Of a body without a known length, what has arrived.
    let held = || body.frames().iter().map(|frame| frame.len() as u64).sum();
    let body_bytes = body.max_bytes().unwrap_or_else(held);
    let is_readable = body.is_complete() && GenerationOptions::can_read(&head.headers);
    let max_output =
        is_readable.then(|| GenerationOptions::read(&body.contiguous())?.max_output_tokens()).flatten();
    Expected { model, body_bytes, max_output }
}

async fn take(
    context: &mut Context<'_>,
    checks: &Checks<'_>,
    quotas: Vec<AppliedQuota<'_, '_>>,
    variables: &Variables<'_>,
    expected: Option<Expected>,
) -> Result<(), Error> {
    let (routes, proxy) = (context.routes, context.proxy);
    let chosen: SmallVec<[(&Arc<PolicyLimits>, usize); 2]> =
        checks.limits().filter_map(|policy| Some((policy, policy.choose(variables)?))).collect();
    let limits = chosen.iter().filter_map(|(policy, set)| Some((routes.limits.get(policy.index)?, *set)));
    let quotas = quotas.into_iter().filter_map(|it| Some((routes.quotas.get(it.quota.index)?, it)));
    let (now, unix_seconds) = (Instant::now(), limit::unix_seconds());
    let mut admission = limit::admit(limits, quotas, expected, now, unix_seconds, proxy.quota_store.as_ref())
        .await
        .map_err(|rejection| rejected(context, rejection))?;
    let questions: SmallVec<[Question<'_>; 2]> =
        chosen.iter().filter_map(|(policy, set)| Question::new(policy, *set, variables)).collect();
    if !questions.is_empty() {
        // Boxed, so that it adds nothing to the future of requests that no server counts. If it fails or the client leaves,
        // what was taken before is given back.
        let answers = Box::pin(ask(context, questions)).await?;
        if let Some(taken) = &mut admission {
            taken.add_answers(answers);
        }
    }
    for taken in admission.iter().flat_map(|admission| admission.quotas()) {
        proxy.metrics.quota_taken(taken);
    }
    context.record.admitted(admission);
    Ok(())
}

/// Asks the servers of global limits, one after the other: a request that one rejects is not counted by the next.
async fn ask(
    context: &Context<'_>,
    questions: SmallVec<[Question<'_>; 2]>,
) -> Result<SmallVec<[Answer; 2]>, Error> {
    let mut answers = SmallVec::new();
    for question in questions {
        let asking = question.ask(&context.routes.limit_servers, &context.proxy.limit_reports);
        answers.push(asking.await.map_err(|rejection| match rejection {
            GlobalRejection::Exceeded(exceeded) => {
                context.proxy.metrics.rate_limited(&exceeded.policy, exceeded.measure);
                Error::from(exceeded)
            }
            GlobalRejection::Unavailable(policy) => Error::LimitServerUnavailable { policy },
        })?);
    }
    Ok(answers)
}

fn rejected(context: &Context<'_>, rejection: Rejection) -> Error {
    let metrics = &context.proxy.metrics;
    match rejection {
        Rejection::Limit(exceeded) => {
            metrics.rate_limited(&exceeded.policy, exceeded.limit.measure);
            exceeded.into()
        }
        Rejection::Quota(QuotaRejection::Exceeded(exceeded)) => {
            metrics.quota_rejected(&exceeded);
            exceeded.into()
        }
        Rejection::Quota(QuotaRejection::StoreUnavailable(quota)) => Error::QuotaStoreUnavailable { quota },
    }
}
