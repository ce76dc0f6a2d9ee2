//! Rate limits of policies (`traffic.rateLimit` of AgentgatewayPolicy).

use forebay_resources::ObjectKey;

use super::expression::Expression;
use super::global_limit::GlobalLimit;
use super::rate_limit::{Measure, RateLimit};
use super::variables::Variables;

/// Limits that apply together.
#[derive(Debug)]
pub struct LimitSet {
    /// Which requests they apply to. `None`: all.
    pub(crate) condition: Option<Expression>,
    /// All of them apply. Empty only if there is a global one.
    pub limits: Vec<RateLimit>,
    /// A limit that a server counts.
    pub global: Option<GlobalLimit>,
}

impl LimitSet {
    /// Limits for all requests.
    pub fn unconditional(limits: Vec<RateLimit>) -> Self {
        Self { condition: None, limits, global: None }
    }
}

/// The limits of one policy. All its targets share them.
#[derive(Debug)]
pub struct PolicyLimits {
    /// The policy.
    pub policy: ObjectKey,
    /// The first whose condition is true applies. Never empty.
    pub sets: Vec<LimitSet>,
    /// Position in [`RouteTable::limits`](crate::RouteTable::limits).
    pub index: usize,
}

impl PolicyLimits {
    /// Whether an expression reads the variable `request`.
    pub fn reads_request(&self) -> bool {
        self.sets.iter().filter_map(|set| set.condition.as_ref()).any(Expression::reads_request)
            || self.globals().any(GlobalLimit::reads_request)
    }

    fn globals(&self) -> impl Iterator<Item = &GlobalLimit> {
        self.sets.iter().filter_map(|set| set.global.as_ref())
    }

    /// Whether it has to be known if a request is for a model: an expression reads the variable `llm`, or tokens are counted.
    pub fn reads_model(&self) -> bool {
        let reads = |set: &LimitSet| set.condition.as_ref().is_some_and(Expression::reads_model);
        self.counts_tokens() || self.sets.iter().any(reads) || self.globals().any(GlobalLimit::reads_model)
    }

    /// Whether a limit counts tokens.
    pub fn counts_tokens(&self) -> bool {
        let counts = |set: &LimitSet| set.limits.iter().any(|it| it.measure == Measure::Tokens);
        self.sets.iter().any(counts) || self.globals().any(GlobalLimit::counts_tokens)
    }

    /// The position in [`PolicyLimits::sets`] of the limits for a request. A condition that cannot be evaluated, for example
    /// because the caller has no key, does not hold. `None`: no limit applies.
    pub fn choose(&self, variables: &Variables<'_>) -> Option<usize> {
        self.sets.iter().position(|set| {
            set.condition.as_ref().is_none_or(|condition| condition.evaluate(variables) == Ok(true))
        })
    }
}
