//! Rules of HTTPRoutes.

use std::sync::Arc;

use super::access::Access;
use super::backend::{Backend, Pool};
use super::filters::Filters;
use super::quota::QuotaSet;
use super::retry::RetryPolicy;
use super::timeouts::Timeouts;

/// What to do with the requests that a rule matches.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name rule N` of the HTTPRoute.
    pub origin: String,
    /// `None` for rules without filters.
    pub filters: Option<Box<Filters>>,
    /// Where requests go.
    pub backends: Backends,
    /// Limits on the duration of requests.
    pub timeouts: Timeouts,
    /// When a request may be sent again.
    pub retry: Option<RetryPolicy>,
    /// A policy that restricts the rule and that the gateway does not enforce. Such a rule answers no request.
    pub closed_by: Option<Arc<str>>,
    /// What policies of the route and the rule require.
    pub(crate) access: Access,
    /// The quotas of the route.
    pub(crate) quotas: Option<Arc<QuotaSet>>,
}

/// The backends of a rule with their weights.
#[derive(Debug)]
pub struct Backends {
    weighted: Vec<Weighted>,
    total: u64,
}

/// One of a rule's backends.
#[derive(Debug)]
pub struct Weighted {
    pub(crate) weight: u64,
    /// Target of the reference.
    pub backend: Backend,
    /// Filters of the backendRef itself.
    pub filters: Option<Box<Filters>>,
}

static NO_WEIGHT: Weighted = Weighted {
    weight: 0,
    backend: Backend::Invalid("the rule has no backend with a weight above 0"),
    filters: None,
};

impl Backends {
    pub(crate) fn new(weighted: Vec<Weighted>) -> Self {
        let total = weighted.iter().map(|weighted| weighted.weight).sum();
        Self { weighted, total }
    }

    /// A backend at random, by weight. Without any weight above 0, an invalid one.
    pub fn choose(&self) -> &Weighted {
        if let [backend @ Weighted { weight: 1.., .. }] = &self.weighted[..] {
            return backend;
        }
        if self.total == 0 {
            return &NO_WEIGHT;
        }
        let mut at = fastrand::u64(..self.total);
        for backend in &self.weighted {
            if at < backend.weight {
                return backend;
            }
            at -= backend.weight;
        }
        &NO_WEIGHT
    }

    /// Weights and backends, in order.
    pub fn all(&self) -> impl Iterator<Item = (u64, &Backend)> {
        self.weighted.iter().map(|weighted| (weighted.weight, &weighted.backend))
    }

    /// The InferencePools among the backends.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.weighted.iter().filter_map(|weighted| match &weighted.backend {
            Backend::Pool(pool) => Some(pool),
            Backend::Service(_) | Backend::Invalid(_) => None,
        })
    }
}
