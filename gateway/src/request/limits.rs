//! Takes requests from the rate limits of policies.

use std::time::Instant;

use forebay_openai::GenerationOptions;
use forebay_routing::{Checks, Identity, ListenerRoutes, Rule, Variables};
use http::request;

use super::access::{Asked, attributes, is_answered_preflight, models, source};
use super::context::Context;
use crate::error::Error;
use crate::hold::HeldBody;
use crate::limit::{self, Expected};

/// Takes a request that may be sent from all rate limits that apply to it, or fails.
pub(super) async fn count(
    context: &mut Context<'_>,
    (listener, rule): (&ListenerRoutes, &Rule),
    identity: &Identity<'_>,
    asked: Asked<'_>,
    head: &request::Parts,
    body: &mut HeldBody,
) -> Result<(), Error> {
    let checks = listener.checks(Some(rule));
    if checks.limits().next().is_none() || is_answered_preflight(rule, head) {
        return Ok(());
    }
    context.counts_tokens = asked.model.is_some() && checks.limits().any(|policy| policy.counts_tokens());
    if context.counts_tokens && body.is_replayable() && GenerationOptions::can_read(&head.headers) {
        let start = Instant::now();
        body.read_all().await?;
        context.observe_read(start);
    }
    let expected = context.counts_tokens.then(|| expected(listener, asked, head, body));
    take(context, &checks, identity, asked, head, expected)
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

fn take(
    context: &mut Context<'_>,
    checks: &Checks<'_>,
    identity: &Identity<'_>,
    asked: Asked<'_>,
    head: &request::Parts,
    expected: Option<Expected>,
) -> Result<(), Error> {
    let variables = checks.limits().any(|policy| policy.is_conditional()).then(|| {
        let reads_request = checks.limits().any(|policy| policy.reads_request());
        let request = reads_request.then(|| attributes(asked.host, head));
        let mut variables = Variables::new(request, source(asked.via), identity);
        models(asked, head).set(&mut variables);
        variables
    });
    let limits = checks.limits().filter_map(|policy| {
        let set = variables.as_ref().map_or(Some(0), |variables| policy.choose(variables))?;
        Some((context.routes.limits.get(policy.index)?, set))
    });
    let admitted = limit::admit(limits, expected, Instant::now());
    if let Err(exceeded) = &admitted {
        context.proxy.metrics.rate_limited(exceeded);
    }
    context.record.admitted(admitted?);
    Ok(())
}
