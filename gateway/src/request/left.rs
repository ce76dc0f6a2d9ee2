//! `GET /forebay/v1/limits`: what the rate limits leave the caller, by its own credentials.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use forebay_routing::{Checks, Identity, Variables};
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use super::access::{attributes, source};
use super::received::Received;
use crate::auth::authenticate;
use crate::error::Error;
use crate::limit::Standing;

const PATH: &str = "/forebay/v1/limits";

/// Breaks with the limits that apply to the caller, if the request asks for them and policies limit requests for its host.
/// Limits whose condition reads the model are left out: it depends on the request whether they apply.
pub(super) fn answer_limits(
    received: Received<'_>,
) -> Result<ControlFlow<Response<Bytes>, Received<'_>>, Error> {
    if received.head.method != Method::GET || received.head.uri.path() != PATH {
        return Ok(ControlFlow::Continue(received));
    }
    let all: Vec<Checks<'_>> = received.listener.checks_with_limits(received.host()).collect();
    if all.iter().all(|checks| checks.limits().next().is_none()) {
        return Ok(ControlFlow::Continue(received));
    }
    let (mut seen, mut data) = (BTreeSet::new(), Vec::new());
    let (mut is_known, mut rejected) = (false, None);
    for checks in all {
        match authenticate(&checks, &received.head.headers, &received.tokens) {
            Ok(identity) => {
                is_known = true;
                add(&received, &checks, &identity, &mut seen, &mut data);
            }
            Err(error) => drop(rejected.get_or_insert(error)),
        }
    }
    match rejected {
        Some(error) if !is_known => Err(error.into()),
        _ => Ok(ControlFlow::Break(response(&json!({ "object": "list", "data": data })))),
    }
}

fn add(
    received: &Received<'_>,
    checks: &Checks<'_>,
    identity: &Identity<'_>,
    seen: &mut BTreeSet<usize>,
    data: &mut Vec<Value>,
) {
    let request = attributes(received.host(), &received.head);
    let variables = Variables::new(Some(request), source(received.context.via), identity);
    for policy in checks.limits() {
        let Some(set) = policy.choose(&variables).filter(|_| seen.insert(policy.index)) else { continue };
        let Some(state) = received.context.routes.limits.get(policy.index) else { continue };
        let standings = state.standings(set, Instant::now());
        data.extend(standings.iter().map(|standing| described(&policy.policy.to_string(), standing)));
    }
}

fn described(policy: &str, standing: &Standing) -> Value {
    let limit = standing.limit;
    let (capacity, remaining, full_after) = standing.amounts();
    json!({
        "object": "limit",
        "policy": policy,
        "counts": limit.measure.name(),
        "amount": limit.amount,
        "per": limit.unit.name(),
        "capacity": capacity,
        "remaining": remaining,
        "full_after_seconds": full_after.as_secs_f64(),
    })
}

fn response(body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
