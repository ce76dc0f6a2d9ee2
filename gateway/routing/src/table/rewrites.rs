//! Model names that a pool's pods are asked for instead of the client's.

use std::collections::BTreeMap;

use forebay_openai::ModelName;

/// The InferenceModelRewrites of one pool.
#[derive(Debug)]
pub struct Rewrites {
    exact: BTreeMap<String, Targets>,
    generic: Option<Targets>,
}

/// Models that replace another one, with weights. At least one.
#[derive(Clone, Debug)]
pub struct Targets {
    weighted: Vec<(u64, ModelName)>,
    total: u64,
}

impl Targets {
    /// `None` for an empty list.
    pub(crate) fn new(weighted: Vec<(u64, ModelName)>) -> Option<Self> {
        let total = weighted.iter().map(|(weight, _)| weight).sum();
        (!weighted.is_empty()).then_some(Self { weighted, total })
    }

    /// A target at random, by weight. `None` if all weights are 0.
    pub fn choose(&self) -> Option<&ModelName> {
        if self.total == 0 {
            return None;
        }
        let mut at = fastrand::u64(..self.total);
        self.weighted.iter().find_map(|(weight, name)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here.then_some(name)
        })
    }

    /// All targets.
    pub fn names(&self) -> impl Iterator<Item = &ModelName> {
        self.weighted.iter().map(|(_, name)| name)
    }
}

impl Rewrites {
    /// `None` if there is nothing to rewrite.
    pub(crate) fn new(exact: BTreeMap<String, Targets>, generic: Option<Targets>) -> Option<Self> {
        (generic.is_some() || !exact.is_empty()).then_some(Self { exact, generic })
    }

    /// The model that the pods are asked for when a client asks for `model`.
    pub fn target(&self, model: &ModelName) -> Option<&ModelName> {
        self.targets(model)?.choose()
    }

    /// The models of which one replaces `model`.
    pub fn targets(&self, model: &ModelName) -> Option<&Targets> {
        self.exact.get(model.as_str()).or(self.generic.as_ref())
    }

    /// Targets for every model without an exact match.
    pub fn generic(&self) -> Option<&Targets> {
        self.generic.as_ref()
    }

    /// Models with an exact match, and their targets.
    pub fn exact(&self) -> impl Iterator<Item = (&str, &Targets)> {
        self.exact.iter().map(|(model, targets)| (model.as_str(), targets))
    }
}
