//! InferenceModelRewrites: which model a pool's pods are asked for in place of the one that a client names.

use std::collections::BTreeMap;

use forebay_resources::{InferenceModelRewrite, ModelRewriteRule, ObjectKey, Snapshot, TargetModel};

use super::random;
use super::report::{PoolReport, Verdict, reason};
use forebay_openai::ModelName;

/// What the InferenceModelRewrites of one pool say.
#[derive(Debug)]
pub struct Rewrites {
    exact: BTreeMap<String, Targets>,
    generic: Option<Targets>,
}

/// The models that take turns in place of another, by their weights; at least one.
#[derive(Clone, Debug)]
pub struct Targets {
    weighted: Vec<(u64, ModelName)>,
    total: u64,
}

impl Targets {
    pub fn choose(&self) -> Option<&ModelName> {
        let mut at = random().checked_rem(self.total)?;
        self.weighted.iter().find_map(|(weight, name)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here.then_some(name)
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &ModelName> {
        self.weighted.iter().map(|(_, name)| name)
    }
}

impl Rewrites {
    /// Nothing where no object refers to the pool. Targets that are no names are left out.
    ///
    /// An exact match comes before a rule without matches, an older object before a younger one, and in one
    /// object the first rule (the API's own words on precedence).
    pub(super) fn of_pool(snapshot: &Snapshot, pool: &ObjectKey) -> Option<Self> {
        let mut objects: Vec<(&ObjectKey, &InferenceModelRewrite)> = snapshot
            .inference_model_rewrites
            .in_namespace(&pool.namespace)
            .filter(|(_, object)| object.spec.pool_ref.is_pool(&pool.name))
            .map(|(key, object)| (key, &**object))
            .collect();
        objects.sort_by_key(|(key, object)| {
            let made = object.metadata.creation_timestamp.clone();
            (made.is_none(), made, *key)
        });
        let mut rewrites = Self { exact: BTreeMap::new(), generic: None };
        for (_, object) in &objects {
            for rule in &object.spec.rules {
                let Some(targets) = targets(rule) else { continue };
                if rule.matches.is_empty() {
                    rewrites.generic.get_or_insert_with(|| targets.clone());
                }
                for matching in &rule.matches {
                    let known = rewrites.exact.entry(matching.model.value.clone());
                    known.or_insert_with(|| targets.clone());
                }
            }
        }
        (rewrites.generic.is_some() || !rewrites.exact.is_empty()).then_some(rewrites)
    }

    /// What the pods are asked for when a client asks for `model`.
    pub fn target(&self, model: &ModelName) -> Option<&ModelName> {
        self.exact.get(model.as_str()).or(self.generic.as_ref())?.choose()
    }

    /// What takes the place of all models that are not matched exactly.
    pub(super) fn generic(&self) -> Option<&Targets> {
        self.generic.as_ref()
    }

    /// The models that are matched exactly.
    pub fn exact(&self) -> impl Iterator<Item = (&str, &Targets)> {
        self.exact.iter().map(|(model, targets)| (model.as_str(), targets))
    }
}

/// What is to be said of the objects whose pool is one of `pools`, or is not there at all.
pub(super) fn verdicts(
    snapshot: &Snapshot,
    pools: &BTreeMap<ObjectKey, PoolReport>,
) -> BTreeMap<ObjectKey, Verdict> {
    let judged = snapshot.inference_model_rewrites.iter().filter_map(|(key, object)| {
        let name = &object.spec.pool_ref.name;
        let pool = ObjectKey::new(&key.namespace, name);
        if !object.spec.pool_ref.is_pool(name) {
            return None;
        }
        let verdict = if !snapshot.inference_pools.contains_key(&pool) {
            Verdict::no(reason::TARGET_NOT_FOUND, format!("there is no InferencePool {pool}"))
        } else if !pools.contains_key(&pool) {
            return None;
        } else {
            let mut targets = object.spec.rules.iter().flat_map(|rule| &rule.targets);
            match targets.find(|target| name_of(target).is_none()) {
                Some(bad) => {
                    Verdict::no(reason::INVALID, format!("{:?} is no model's name", bad.model_rewrite))
                }
                None => Verdict::yes(reason::ACCEPTED),
            }
        };
        Some((key.clone(), verdict))
    });
    judged.collect()
}

fn name_of(target: &TargetModel) -> Option<ModelName> {
    ModelName::parse(target.model_rewrite.as_bytes())
}

fn targets(rule: &ModelRewriteRule) -> Option<Targets> {
    let weight = |target: &TargetModel| target.weight.map_or(1, |weight| weight.get().into());
    let weighted: Vec<(u64, ModelName)> =
        rule.targets.iter().filter_map(|target| name_of(target).map(|name| (weight(target), name))).collect();
    let total = weighted.iter().map(|(weight, _)| weight).sum();
    (!weighted.is_empty()).then_some(Targets { weighted, total })
}
