//! Parses `traffic.rateLimit`.

use serde::Deserialize;
use serde_json::Value;

use crate::table::{Expression, LimitSet, LimitUnit, Measure, RateLimit};

const MAX_LIMITS: usize = 16;

pub(super) fn rate_limits(value: &Value) -> Result<Vec<LimitSet>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        local: Option<Vec<Local>>,
        global: Option<Value>,
        conditional: Option<Vec<Conditional>>,
    }
    let spec = Spec::deserialize(value).map_err(|error| error.to_string())?;
    match (spec.local, spec.conditional) {
        (Some(_), Some(_)) => Err("local and conditional must not both be set".into()),
        (local, None) => {
            let limits = limits(local.unwrap_or_default(), spec.global.as_ref())?;
            Ok(vec![LimitSet::unconditional(limits)])
        }
        (None, Some(_)) if spec.global.is_some() => Err("global and conditional must not both be set".into()),
        (None, Some(sets)) => conditional(sets),
    }
}

/// Limits for the requests that an expression selects.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditional {
    condition: Option<String>,
    policy: Policy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[serde(default)]
    local: Vec<Local>,
    global: Option<Value>,
}

fn conditional(sets: Vec<Conditional>) -> Result<Vec<LimitSet>, String> {
    let count = sets.len();
    if count == 0 || count > MAX_LIMITS {
        return Err(format!("conditional must have 1 to {MAX_LIMITS} policies"));
    }
    let set = |(at, set): (usize, Conditional)| {
        let failed = |why: String| format!("conditional[{at}]: {why}");
        let condition = match &set.condition {
            None if at + 1 < count => return Err(failed("only the last one can have no condition".into())),
            None => None,
            Some(source) => Some(Expression::compile(source).map_err(failed)?),
        };
        let limits = limits(set.policy.local, set.policy.global.as_ref()).map_err(failed)?;
        Ok(LimitSet { condition, limits })
    };
    sets.into_iter().enumerate().map(set).collect()
}

fn limits(local: Vec<Local>, global: Option<&Value>) -> Result<Vec<RateLimit>, String> {
    if global.is_some() {
        return Err("global is not supported; only local is".into());
    }
    if local.is_empty() || local.len() > MAX_LIMITS {
        return Err(format!("local must have 1 to {MAX_LIMITS} limits"));
    }
    let limit = |(at, local): (usize, Local)| local.limit().map_err(|why| format!("local[{at}]: {why}"));
    local.into_iter().enumerate().map(limit).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {
    requests: Option<i32>,
    tokens: Option<i32>,
    burst: Option<i32>,
    unit: String,
}

impl Local {
    fn limit(self) -> Result<RateLimit, String> {
        let (measure, amount) = match (self.requests, self.tokens) {
            (Some(requests), None) => (Measure::Requests, requests),
            (None, Some(tokens)) => (Measure::Tokens, tokens),
            _ => return Err("exactly one of requests and tokens must be set".into()),
        };
        let amount = u32::try_from(amount).ok().filter(|amount| *amount > 0);
        let amount = amount.ok_or_else(|| format!("{} must be 1 or more", measure.name()))?;
        let burst = u32::try_from(self.burst.unwrap_or(0)).map_err(|_| "burst is negative")?;
        let unit = match self.unit.as_str() {
            "Seconds" => LimitUnit::Second,
            "Minutes" => LimitUnit::Minute,
            "Hours" => LimitUnit::Hour,
            other => return Err(format!("the unit {other:?} is not supported")),
        };
        Ok(RateLimit { measure, amount, burst, unit })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_limit_is_a_bucket() {
        let limits = rate_limits(&json!({ "local": [
            { "requests": 10, "unit": "Seconds", "burst": 5 },
            { "tokens": 600, "unit": "Minutes" },
        ] }))
        .unwrap();
        let [LimitSet { condition: None, limits }] = &limits[..] else { panic!("{limits:?}") };
        let texts: Vec<String> = limits.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10 requests per second and a burst of 5", "600 tokens per minute"]);
        assert_eq!((limits[0].capacity(), limits[1].capacity()), (15, 600));
        assert!((limits[1].per_second() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let limit = || json!({ "local": [{ "requests": 1, "unit": "Hours" }] });
        let conditional = |sets: Value| json!({ "conditional": sets });
        let local = |limit: Value| json!({ "local": [{ "requests": 1, "unit": "Hours" }, limit] });
        for (value, expected) in [
            (json!({}), "local must have 1 to 16 limits"),
            (json!({ "local": [] }), "local must have 1 to 16 limits"),
            (json!({ "global": {} }), "global is not supported"),
            (json!({ "conditional": [] }), "conditional must have 1 to 16 policies"),
            (json!({ "conditional": [], "local": [] }), "local and conditional must not both be set"),
            (
                conditional(json!([{ "policy": limit() }, { "policy": limit() }])),
                "conditional[0]: only the last",
            ),
            (conditional(json!([{ "condition": "a ==", "policy": limit() }])), "conditional[0]: "),
            (
                conditional(json!([{ "condition": "true", "policy": { "global": {} } }])),
                "global is not supported",
            ),
            (conditional(json!([{ "condition": "true", "policy": {} }])), "conditional[0]: local must have"),
            (json!({ "later": 1 }), "unknown field `later`"),
            (local(json!({ "unit": "Hours" })), "local[1]: exactly one of requests and tokens"),
            (local(json!({ "requests": 1, "tokens": 1, "unit": "Hours" })), "exactly one of"),
            (local(json!({ "tokens": 0, "unit": "Hours" })), "local[1]: tokens must be 1 or more"),
            (local(json!({ "requests": 1, "burst": -1, "unit": "Hours" })), "burst is negative"),
            (local(json!({ "requests": 1, "unit": "Days" })), "the unit \"Days\" is not supported"),
            (local(json!({ "requests": 1 })), "missing field `unit`"),
            (local(json!({ "requests": 1, "unit": "Hours", "key": "x" })), "unknown field `key`"),
        ] {
            let why = rate_limits(&value).unwrap_err();
            assert!(why.contains(expected), "{value}: {why}");
        }
    }
}
