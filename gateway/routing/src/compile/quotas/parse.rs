//! Parses the spec of a quota. The bounds are those of the CRD's schema, which objects of a folder have not passed.

use std::collections::BTreeSet;

use forebay_resources::{
    LabelOperator, LabelRequirement, MetadataSelector, ModelPrice, ObjectKey, QuotaCallers, QuotaFields,
    QuotaLimitSpec, QuotaSpec, QuotaTargetRef,
};

use crate::names::{GATEWAY_GROUP, HTTP_ROUTE};
use crate::table::{
    Callers, Expression, KeySelector, Money, Price, Prices, Quota, QuotaLimit, QuotaMeasure, Requirement,
};

const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 16;
const MAX_MODELS: usize = 64;
const MAX_PRICES: usize = 256;
const MAX_REQUIREMENTS: usize = 16;
const MAX_VALUES: usize = 64;
const MAX_EXPRESSION_BYTES: usize = 4096;
const MAX_NAME_BYTES: usize = 256;
const MAX_REQUESTS: i64 = 1_000_000_000_000;
const MAX_TOKENS: i64 = 1_000_000_000_000_000;
const MAX_CONCURRENT_REQUESTS: i64 = 1_000_000;

/// The error names the field.
pub(super) fn quota(key: &ObjectKey, index: usize, spec: &QuotaSpec) -> Result<Quota, String> {
    let QuotaFields {
        target_refs,
        callers,
        is_default,
        per,
        models,
        limits,
        prices,
        mode,
        when_store_unavailable: store_failure,
    } = spec.parse()?;
    bounded("targetRefs", target_refs.len(), 1, MAX_TARGETS)?;
    each("targetRefs", target_refs, target)?;
    let callers = callers.map_or(Ok(Callers::All), self::callers)?;
    let per = per.map(|source| expression("per", &source)).transpose()?;
    bounded("models", models.len(), 0, MAX_MODELS)?;
    let models = each("models", models, name)?.into_iter().collect();
    bounded("limits", limits.len(), 1, MAX_LIMITS)?;
    let limits = each("limits", limits, limit)?;
    bounded("prices", prices.len(), 0, MAX_PRICES)?;
    let prices = self::prices(prices)?;
    let key = key.clone();
    let quota = Quota { key, index, callers, is_default, per, models, limits, prices, mode, store_failure };
    if quota.counts_money() && quota.prices.is_empty() {
        return Err("prices: a limit of money needs prices".into());
    }
    Ok(quota)
}

fn each<S, T>(field: &str, all: Vec<S>, parse: impl Fn(S) -> Result<T, String>) -> Result<Vec<T>, String> {
    let one = |(at, it)| parse(it).map_err(|why| format!("{field}[{at}]{}", separated(&why)));
    all.into_iter().enumerate().map(one).collect()
}

/// `.name: why`, or `: why`
fn separated(why: &str) -> String {
    if why.starts_with('.') { why.to_owned() } else { format!(": {why}") }
}

fn bounded(field: &str, count: usize, min: usize, max: usize) -> Result<(), String> {
    if (min..=max).contains(&count) {
        return Ok(());
    }
    Err(format!("{field} has {count} entries, not {min} to {max}"))
}

fn target(target: QuotaTargetRef) -> Result<(), String> {
    let QuotaTargetRef { group, kind, name, section_name } = target;
    if group != GATEWAY_GROUP || (kind != "Gateway" && kind != HTTP_ROUTE) {
        return Err(format!(
            "the kind {kind} of the group {group:?} is not supported; Gateway and HTTPRoute of {GATEWAY_GROUP} are"
        ));
    }
    if name.is_empty() {
        return Err(".name: is empty".into());
    }
    if section_name.is_some() && kind != "Gateway" {
        return Err(".sectionName: is supported for Gateways only".into());
    }
    Ok(())
}

fn callers(callers: QuotaCallers) -> Result<Callers, String> {
    match (callers.key_selector, callers.condition) {
        (Some(selector), None) => {
            Ok(Callers::Keys(key_selector(selector).map_err(|why| format!("callers.keySelector.{why}"))?))
        }
        (None, Some(source)) => Ok(Callers::Condition(expression("callers.condition", &source)?)),
        _ => Err("callers: exactly one of keySelector and condition must be set".into()),
    }
}

fn key_selector(selector: MetadataSelector) -> Result<KeySelector, String> {
    bounded("matchLabels", selector.match_labels.len(), 0, MAX_REQUIREMENTS)?;
    bounded("matchExpressions", selector.match_expressions.len(), 0, MAX_REQUIREMENTS)?;
    let labels = selector.match_labels.into_iter();
    let mut all: Vec<_> =
        labels.map(|(name, value)| (name, Requirement::In(BTreeSet::from([value])))).collect();
    all.extend(each("matchExpressions", selector.match_expressions, requirement)?);
    Ok(KeySelector(all))
}

fn requirement(requirement: LabelRequirement) -> Result<(String, Requirement), String> {
    let LabelRequirement { key, operator, values } = requirement;
    let has_values = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
    if has_values == values.is_empty() {
        return Err(".values: must be set for In and NotIn, and only for these".into());
    }
    if has_values {
        bounded(".values", values.len(), 1, MAX_VALUES)?;
    }
    let values: BTreeSet<String> = values.into_iter().collect();
    let requirement = match operator {
        LabelOperator::In => Requirement::In(values),
        LabelOperator::NotIn => Requirement::NotIn(values),
        LabelOperator::Exists => Requirement::Exists,
        LabelOperator::DoesNotExist => Requirement::DoesNotExist,
    };
    Ok((name(key).map_err(|why| format!(".key: {why}"))?, requirement))
}

fn expression(field: &str, source: &str) -> Result<Expression, String> {
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(format!("{field} is longer than {MAX_EXPRESSION_BYTES} bytes"));
    }
    Expression::compile(source).map_err(|why| format!("{field}: {why}"))
}

fn name(name: String) -> Result<String, String> {
    match name.len() {
        0 => Err("is empty".into()),
        1..=MAX_NAME_BYTES => Ok(name),
        _ => Err(format!("is longer than {MAX_NAME_BYTES} bytes")),
    }
}

fn limit(spec: QuotaLimitSpec) -> Result<QuotaLimit, String> {
    let QuotaLimitSpec { requests, tokens, count, concurrent_requests, money, window } = spec;
    if count.is_some() && tokens.is_none() {
        return Err(".count: is for tokens only".into());
    }
    let (measure, amount) = match (requests, tokens, concurrent_requests, money) {
        (Some(requests), None, None, None) => {
            (QuotaMeasure::Requests, amount("requests", requests, MAX_REQUESTS)?)
        }
        (None, Some(tokens), None, None) => {
            (QuotaMeasure::Tokens(count.unwrap_or_default()), amount("tokens", tokens, MAX_TOKENS)?)
        }
        (None, None, Some(requests), None) => (
            QuotaMeasure::ConcurrentRequests,
            amount("concurrentRequests", requests, MAX_CONCURRENT_REQUESTS)?,
        ),
        (None, None, None, Some(text)) => {
            match Money::parse(&text).map_err(|why| format!(".money: {why}"))? {
                money if money > Money::default() => (QuotaMeasure::Money, money.units()),
                _ => return Err(".money: must be more than 0".into()),
            }
        }
        _ => {
            return Err("exactly one of requests, tokens, concurrentRequests and money must be set".into());
        }
    };
    match (measure, window) {
        (QuotaMeasure::ConcurrentRequests, Some(_)) => {
            Err(".window: must not be set for concurrentRequests".into())
        }
        (QuotaMeasure::ConcurrentRequests, None) | (_, Some(_)) => Ok(QuotaLimit { measure, amount, window }),
        (_, None) => Err(".window: must be set".into()),
    }
}

fn amount(field: &str, amount: i64, max: i64) -> Result<u128, String> {
    let is_valid = (1..=max).contains(&amount);
    u128::try_from(amount).ok().filter(|_| is_valid).ok_or_else(|| format!(".{field}: must be 1 to {max}"))
}

fn prices(all: Vec<ModelPrice>) -> Result<Prices, String> {
    let mut prices = Prices::default();
    for (at, ModelPrice { model, input, cached_input, output }) in all.into_iter().enumerate() {
        let price = Price::parse(&input, cached_input.as_deref(), &output)
            .map_err(|why| format!("prices[{at}].{why}"))?;
        let model = name(model).map_err(|why| format!("prices[{at}].model: {why}"))?;
        if !prices.add(model.clone(), price) {
            return Err(format!("prices[{at}].model: {model:?} has a price already"));
        }
    }
    Ok(prices)
}
