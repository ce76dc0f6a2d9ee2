//! `GET /forebay/v1/limits`: what rate limits and quotas leave the caller, by its own credentials.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use forebay_resources::{ObjectKey, QuotaMode};
use forebay_routing::{
    AppliedQuota, Checks, DescriptorValues, Identity, ModelNames, Quota, QuotaMeasure, QuotaModels, Quotas,
    RateLimit, Variables,
};
use http::{HeaderValue, Method, Response, header};
use serde_json::{Map, Value, json};

use super::access::{attributes, source};
use super::received::Received;
use crate::auth::authenticate;
use crate::error::Error;
use crate::limit::{Question, QuotaStanding, Standing, unix_seconds};

const PATH: &str = "/forebay/v1/limits";

pub(super) fn asks_for_limits(received: &Received<'_>) -> bool {
    received.head.method == Method::GET && received.head.uri.path() == PATH
}

/// Breaks with the limits and quotas that apply to the caller, if there are some for its host.
/// Limits whose condition reads the model are left out: it depends on the request whether they apply.
pub(super) async fn answer_limits(
    received: Received<'_>,
) -> Result<ControlFlow<Response<Bytes>, Received<'_>>, Error> {
    let all: Vec<(Checks<'_>, Quotas<'_>)> = received.listener.limited(received.host()).collect();
    if all.iter().all(|(checks, quotas)| checks.limits().next().is_none() && quotas.is_empty()) {
        return Ok(ControlFlow::Continue(received));
    }
    let (mut seen, mut data) = (Seen::default(), Vec::new());
    let (mut is_known, mut rejected) = (false, None);
    for (checks, quotas) in all {
        match authenticate(&checks, &received.head.headers, &received.tokens) {
            Ok(identity) => {
                is_known = true;
                add(&received, (&checks, quotas), &identity, &mut seen, &mut data).await;
            }
            Err(error) => drop(rejected.get_or_insert(error)),
        }
    }
    match rejected {
        Some(error) if !is_known => Err(error.into()),
        _ => Ok(ControlFlow::Break(response(&json!({ "object": "list", "data": data })))),
    }
}

/// Positions of what is listed already.
#[derive(Default)]
struct Seen {
    limits: BTreeSet<usize>,
    quotas: BTreeSet<usize>,
}

async fn add(
    received: &Received<'_>,
    (checks, quotas): (&Checks<'_>, Quotas<'_>),
    identity: &Identity<'_>,
    seen: &mut Seen,
    data: &mut Vec<Value>,
) {
    let routes = received.context.routes;
    let request = attributes(received.host(), &received.head);
    let variables =
        Variables::new(Some(request), source(received.context.via), identity, ModelNames::default());
    for policy in checks.limits() {
        let Some(set) = policy.choose(&variables).filter(|_| seen.limits.insert(policy.index)) else {
            continue;
        };
        let Some(state) = routes.limits.get(policy.index) else { continue };
        let standings = state.standings(set, Instant::now());
        data.extend(standings.iter().map(|(limit, standing)| described(&policy.policy, *limit, standing)));
        if let Some(question) = Question::new(policy, set, &variables) {
            let read = question.read(&routes.limit_servers).await;
            data.extend(
                read.iter().map(|(values, standing)| described_global(&policy.policy, values, standing)),
            );
        }
    }
    let now = unix_seconds();
    for AppliedQuota { quota, value, .. } in quotas.applied(QuotaModels::Any, &variables) {
        let Some(state) = routes.quotas.get(quota.index).filter(|_| seen.quotas.insert(quota.index)) else {
            continue;
        };
        let store = received.context.proxy.quota_store.as_ref();
        let standings = state.standings(value.as_deref(), now, store).await;
        data.extend(standings.iter().map(|standing| described_quota(quota, standing)));
    }
}

fn described(policy: &ObjectKey, limit: RateLimit, standing: &Standing) -> Value {
    json!({
        "object": "limit",
        "policy": policy.to_string(),
        "counts": limit.measure.name(),
        "amount": limit.amount,
        "per": limit.unit.name(),
        "capacity": standing.limit,
        "remaining": standing.remaining,
        "full_after_seconds": standing.reset_after.as_secs_f64(),
    })
}

/// The server does not say per which time.
fn described_global(policy: &ObjectKey, values: &DescriptorValues, standing: &Standing) -> Value {
    let descriptor: Map<String, Value> =
        values.entries.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "object": "limit",
        "policy": policy.to_string(),
        "counts": values.measure.name(),
        "descriptor": descriptor,
        "amount": standing.limit,
        "remaining": standing.remaining,
        "full_after_seconds": standing.reset_after.as_secs_f64(),
    })
}

/// Money is a text: numbers of JSON may lose decimals.
fn described_quota(quota: &Quota, standing: &QuotaStanding) -> Value {
    let limit = standing.limit;
    let number = |amount: u128| match limit.measure {
        QuotaMeasure::Money => json!(limit.format(amount)),
        _ => json!(u64::try_from(amount).unwrap_or(u64::MAX)),
    };
    let mut described = json!({
        "object": "limit",
        "quota": quota.key.to_string(),
        "counts": limit.measure.name(),
        "amount": number(limit.amount),
        "remaining": number(standing.remaining),
    });
    if standing.share != limit.amount {
        described["share"] = number(standing.share);
    }
    if let QuotaMeasure::Tokens(count) = limit.measure {
        described["tokens"] = json!(count);
    }
    if let Some(window) = limit.window_name() {
        described["per"] = json!(window);
        described["full_after_seconds"] = json!(standing.reset_after.as_secs_f64());
    }
    if !quota.models.is_empty() {
        described["models"] = json!(quota.models);
    }
    if quota.mode == QuotaMode::Warn {
        described["enforced"] = json!(false);
    }
    described
}

fn response(body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
