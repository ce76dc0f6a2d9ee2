//! Quotas: budgets of requests, tokens and money for callers (`Quota` of `forebay.dev/v1alpha1`).

mod callers;
mod limit;
mod money;
mod prices;
mod tokens;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_resources::{ObjectKey, QuotaMode, StoreFailure};
use smallvec::SmallVec;

pub(crate) use self::callers::{Callers, KeySelector, Requirement};
pub use self::limit::{QuotaLimit, QuotaMeasure};
pub use self::money::Money;
pub use self::prices::{Price, Prices};
pub use self::tokens::TokenUse;
use super::access::{Expression, Variables};

/// A valid quota.
#[derive(Debug)]
pub struct Quota {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Position in [`RouteTable::quotas`](crate::RouteTable::quotas).
    pub index: usize,
    pub(crate) callers: Callers,
    pub(crate) is_default: bool,
    pub(crate) per: Option<Expression>,
    /// Names that clients send, or base models. Empty: all requests.
    pub models: BTreeSet<String>,
    /// All of them bind. Never empty.
    pub limits: Vec<QuotaLimit>,
    pub(crate) prices: Prices,
    /// Whether requests above a limit are rejected.
    pub mode: QuotaMode,
    /// What happens while the store of the counters is not reachable.
    pub store_failure: StoreFailure,
}

impl Quota {
    /// Whether the tokens of a request have to be known.
    pub fn counts_tokens(&self) -> bool {
        self.limits.iter().any(|limit| matches!(limit.measure, QuotaMeasure::Tokens(_) | QuotaMeasure::Money))
    }

    /// Whether a limit is an amount of money.
    pub fn counts_money(&self) -> bool {
        self.limits.iter().any(|limit| limit.measure == QuotaMeasure::Money)
    }

    /// The API keys that it is for. `None`: it is not for certain ones.
    pub(crate) fn keys(&self) -> Option<&KeySelector> {
        self.callers.keys()
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.callers.condition().into_iter().chain(&self.per)
    }

    fn depends_on_model(&self) -> bool {
        self.expressions().any(Expression::reads_model)
    }

    /// Whether it has to be known if a request is for a model.
    fn reads_model(&self) -> bool {
        !self.models.is_empty() || self.counts_tokens() || self.depends_on_model()
    }

    fn is_for(&self, models: QuotaModels<'_>) -> bool {
        match models {
            QuotaModels::Request(names) => {
                self.models.is_empty() || names.iter().any(|name| self.models.contains(*name))
            }
            QuotaModels::Any => !self.depends_on_model(),
        }
    }
}

/// The quotas of one target.
#[derive(Debug)]
pub struct QuotaSet(Vec<Arc<Quota>>);

impl QuotaSet {
    /// `None` for an empty list.
    pub(crate) fn new(quotas: Vec<Arc<Quota>>) -> Option<Arc<Self>> {
        (!quotas.is_empty()).then(|| Arc::new(Self(quotas)))
    }

    pub(crate) fn all(&self) -> &[Arc<Quota>] {
        &self.0
    }

    /// A default is for callers that the selection of no other quota of the set contains. A quota for all callers does not
    /// select any: the sum over all callers and a default for the rest go together.
    fn of_caller(&self, variables: &Variables<'_>) -> impl Iterator<Item = &Arc<Quota>> {
        let mut selected: SmallVec<[&Arc<Quota>; 8]> =
            self.0.iter().filter(|quota| quota.callers.contain(variables)).collect();
        if selected.iter().any(|quota| !quota.is_default && !quota.callers.are_all()) {
            selected.retain(|quota| !quota.is_default);
        }
        selected.into_iter()
    }
}

/// The models for which quotas are looked up.
#[derive(Clone, Copy, Debug)]
pub enum QuotaModels<'m> {
    /// The names of the model of one request, the client's first: only quotas for this model. Empty without a model.
    Request(&'m [&'m str]),
    /// Also quotas for some models. Those of which it depends on the request whether they apply are left out.
    Any,
}

/// A quota that applies to a request.
#[derive(Debug)]
pub struct AppliedQuota<'a, 'v> {
    /// The quota.
    pub quota: &'a Arc<Quota>,
    /// The value of `per`. `None`: requests share one set of counters.
    pub value: Option<Cow<'v, str>>,
    /// Of the request's model. `None` if the quota has none.
    pub price: Option<Price>,
}

/// The quotas of a listener and a rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quotas<'a>([Option<&'a Arc<QuotaSet>>; 2]);

impl<'a> Quotas<'a> {
    pub(crate) fn new(listener: Option<&'a Arc<QuotaSet>>, rule: Option<&'a Arc<QuotaSet>>) -> Self {
        Self([listener, rule])
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn all(self) -> impl Iterator<Item = &'a Arc<Quota>> {
        self.0.into_iter().flatten().flat_map(|set| &set.0)
    }

    /// Whether it has to be known if a request is for a model.
    pub fn reads_model(self) -> bool {
        self.all().any(|quota| quota.reads_model())
    }

    /// Whether an expression reads the variable `request`.
    pub fn reads_request(self) -> bool {
        self.all().flat_map(|quota| quota.expressions()).any(Expression::reads_request)
    }

    /// The quotas that apply, each once. An expression that cannot be evaluated selects no caller, and has no value.
    pub fn applied<'v>(
        self,
        models: QuotaModels<'_>,
        variables: &'v Variables<'_>,
    ) -> Vec<AppliedQuota<'a, 'v>>
    where
        'a: 'v,
    {
        let mut applied: Vec<AppliedQuota<'a, 'v>> = Vec::new();
        for quota in self.0.into_iter().flatten().flat_map(|set| set.of_caller(variables)) {
            if !quota.is_for(models) || applied.iter().any(|it| it.quota.index == quota.index) {
                continue;
            }
            let value = quota.per.as_ref().and_then(|per| per.evaluate_text(variables).ok());
            let price = match models {
                QuotaModels::Request(names) => quota.prices.of(names),
                QuotaModels::Any => None,
            };
            applied.push(AppliedQuota { quota, value, price });
        }
        applied
    }
}
