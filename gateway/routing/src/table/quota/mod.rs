//! Quotas: budgets of requests, tokens and money for callers (`Quota` of `forebay.dev/v1alpha1`).

mod callers;
mod limit;
mod money;
mod prices;
mod tokens;

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use cel::Context;
use forebay_resources::{ObjectKey, QuotaMode, StoreFailure};

pub(crate) use self::callers::{Callers, KeySelector, Requirement};
pub use self::limit::{QuotaLimit, QuotaMeasure};
pub use self::money::Money;
pub use self::prices::{Price, Prices};
pub use self::tokens::TokenUse;
use super::access::{Expression, Identity, Variables};

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

    /// A default is for callers that the selection of no other quota of the set contains. A quota for all callers does not
    /// select any: the sum over all callers and a default for the rest go together.
    fn of_caller<'c>(
        &self,
        identity: &Identity<'_>,
        context: &dyn Fn() -> &'c Context<'static, 'static>,
    ) -> Vec<&Arc<Quota>> {
        let selected: Vec<bool> =
            self.0.iter().map(|quota| quota.callers.contain(identity, context)).collect();
        let mut others = self.0.iter().zip(&selected);
        let is_known =
            others.any(|(quota, selected)| *selected && !quota.is_default && !quota.callers.are_all());
        let applies =
            |(quota, selected): &(&Arc<Quota>, &bool)| **selected && !(quota.is_default && is_known);
        self.0.iter().zip(&selected).filter(applies).map(|(quota, _)| quota).collect()
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
pub struct AppliedQuota<'a> {
    /// The quota.
    pub quota: &'a Arc<Quota>,
    /// The value of `per`. `None`: requests share one set of counters.
    pub value: Option<String>,
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
    pub fn applied(
        self,
        identity: &Identity<'_>,
        models: QuotaModels<'_>,
        variables: impl FnOnce() -> Variables,
    ) -> Vec<AppliedQuota<'a>> {
        let context = LazyCell::new(|| variables().context());
        let mut applied: Vec<AppliedQuota<'a>> = Vec::new();
        for set in self.0.into_iter().flatten() {
            for quota in set.of_caller(identity, &|| &*context) {
                if !quota.is_for(models) || applied.iter().any(|it| it.quota.index == quota.index) {
                    continue;
                }
                let value = quota.per.as_ref().and_then(|per| per.evaluate_text(identity, || &*context).ok());
                let price = match models {
                    QuotaModels::Request(names) => quota.prices.of(names),
                    QuotaModels::Any => None,
                };
                applied.push(AppliedQuota { quota, value, price });
            }
        }
        applied
    }
}
