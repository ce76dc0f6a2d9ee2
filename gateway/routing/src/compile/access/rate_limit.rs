//! Parses `traffic.rateLimit`.

use forebay_resources::Snapshot;
use serde::Deserialize;
use serde_json::Value;

use super::global_limit::GlobalSpec;
use crate::compile::policies::PolicyProblem;
use crate::table::{Expression, LimitSet, LimitUnit, Measure, RateLimit};

const MAX_LIMITS: usize = 16;

/// Limits that apply together, and the server that counts further ones.
#[derive(Debug)]
pub(super) struct LimitSetSpec {
    condition: Option<Expression>,
    limits: Vec<RateLimit>,
    global: Option<GlobalSpec>,
}

impl LimitSetSpec {
    /// `namespace`: of the policy.
    pub(super) fn resolve(
        self,
        snapshot: &Snapshot,
        namespace: &str,
        problems: &mut Vec<PolicyProblem>,
    ) -> LimitSet {
        let global = self.global.map(|global| global.resolve(snapshot, namespace, problems));
        LimitSet { condition: self.condition, limits: self.limits, global }
    }
}

pub(super) fn rate_limits(value: &Value) -> Result<Vec<LimitSetSpec>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        local: Option<Vec<Local>>,
        global: Option<Value>,
        conditional: Option<Vec<Conditional>>,
    }
    let Spec { local, global, conditional } = Spec::deserialize(value).map_err(|error| error.to_string())?;
    match conditional {
        Some(_) if local.is_some() => Err("local and conditional must not both be set".into()),
        Some(_) if global.is_some() => Err("global and conditional must not both be set".into()),
        Some(sets) => conditional_sets(sets),
        None => Ok(vec![set(None, Policy { local, global })?]),
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
    local: Option<Vec<Local>>,
    global: Option<Value>,
}

fn conditional_sets(sets: Vec<Conditional>) -> Result<Vec<LimitSetSpec>, String> {
    let count = sets.len();
    if count == 0 || count > MAX_LIMITS {
        return Err(format!("conditional must have 1 to {MAX_LIMITS} policies"));
    }
    let spec = |(at, conditional): (usize, Conditional)| {
        let failed = |why: String| format!("conditional[{at}]: {why}");
        let condition = match &conditional.condition {
            None if at + 1 < count => return Err(failed("only the last one can have no condition".into())),
            None => None,
            Some(source) => Some(Expression::compile(source).map_err(failed)?),
        };
        set(condition, conditional.policy).map_err(failed)
    };
    sets.into_iter().enumerate().map(spec).collect()
}

fn set(condition: Option<Expression>, policy: Policy) -> Result<LimitSetSpec, String> {
    let global = policy.global.map(|global| GlobalSpec::parse(&global)).transpose();
    let global = global.map_err(|why| format!("global{why}"))?;
    let local = match policy.local {
        Some(local) if !local.is_empty() && local.len() <= MAX_LIMITS => local,
        None if global.is_some() => Vec::new(),
        None => return Err("one of local and global must be set".into()),
        Some(_) => return Err(format!("local must have 1 to {MAX_LIMITS} limits")),
    };
    let limit = |(at, local): (usize, Local)| local.limit().map_err(|why| format!("local[{at}]: {why}"));
    let limits = local.into_iter().enumerate().map(limit).collect::<Result<_, _>>()?;
    Ok(LimitSetSpec { condition, limits, global })
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
        let [LimitSetSpec { condition: None, limits, global: None }] = &limits[..] else {
            panic!("{limits:?}")
        };
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
            (json!({}), "one of local and global must be set"),
            (json!({ "local": [] }), "local must have 1 to 16 limits"),
            (json!({ "global": {} }), "global: missing field `backendRef`"),
            (json!({ "global": {}, "conditional": [] }), "global and conditional must not both be set"),
            (json!({ "conditional": [] }), "conditional must have 1 to 16 policies"),
            (json!({ "conditional": [], "local": [] }), "local and conditional must not both be set"),
            (
                conditional(json!([{ "policy": limit() }, { "policy": limit() }])),
                "conditional[0]: only the last",
            ),
            (conditional(json!([{ "condition": "a ==", "policy": limit() }])), "conditional[0]: "),
            (
                conditional(json!([{ "condition": "true", "policy": { "global": {} } }])),
                "conditional[0]: global: missing field `backendRef`",
            ),
            (
                conditional(json!([{ "condition": "true", "policy": {} }])),
                "conditional[0]: one of local and global",
            ),
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
