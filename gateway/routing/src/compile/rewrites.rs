//! InferenceModelRewrites.

use std::collections::BTreeMap;

use forebay_openai::ModelName;
use forebay_resources::{InferenceModelRewrite, ModelRewriteRule, ObjectKey, Snapshot, TargetModel};

use super::report::PoolReport;
use crate::condition::{ConditionStatus, reason};
use crate::table::{Rewrites, Targets};

/// The rewrites of a pool. Targets that are not valid model names are left out.
///
/// Precedence, as the API documents it: an exact match before a rule without matches, an older object before
/// a younger one, an earlier rule before a later one.
pub(super) fn of_pool(snapshot: &Snapshot, pool: &ObjectKey) -> Option<Rewrites> {
    let mut objects: Vec<(&ObjectKey, &InferenceModelRewrite)> = snapshot
        .inference_model_rewrites
        .in_namespace(&pool.namespace)
        .filter(|(_, object)| object.spec.pool_ref.is_pool(&pool.name))
        .map(|(key, object)| (key, &**object))
        .collect();
    objects.sort_by_key(|(key, object)| {
        let created = object.metadata.creation_timestamp.clone();
        (created.is_none(), created, *key)
    });
    let (mut exact, mut generic) = (BTreeMap::new(), None);
    for (_, object) in &objects {
        for rule in &object.spec.rules {
            let Some(targets) = targets(rule) else { continue };
            if rule.matches.is_empty() {
                generic.get_or_insert_with(|| targets.clone());
            }
            for matching in &rule.matches {
                exact.entry(matching.model.value.clone()).or_insert_with(|| targets.clone());
            }
        }
    }
    Rewrites::new(exact, generic)
}

/// Condition `Accepted` of the rewrites whose pool is one of `pools` or does not exist.
pub(super) fn conditions(
    snapshot: &Snapshot,
    pools: &BTreeMap<ObjectKey, PoolReport>,
) -> BTreeMap<ObjectKey, ConditionStatus> {
    let statuses = snapshot.inference_model_rewrites.iter().filter_map(|(key, object)| {
        let name = &object.spec.pool_ref.name;
        let pool = ObjectKey::new(&key.namespace, name);
        if !object.spec.pool_ref.is_pool(name) {
            return None;
        }
        let status = if !snapshot.inference_pools.contains_key(&pool) {
            ConditionStatus::unmet(
                reason::TARGET_NOT_FOUND,
                format!("the InferencePool {pool} does not exist"),
            )
        } else if !pools.contains_key(&pool) {
            return None;
        } else {
            let mut targets = object.spec.rules.iter().flat_map(|rule| &rule.targets);
            match targets.find(|target| name_of(target).is_none()) {
                Some(bad) => ConditionStatus::unmet(
                    reason::INVALID,
                    format!("{:?} is not a valid model name", bad.model_rewrite),
                ),
                None => ConditionStatus::met(reason::ACCEPTED),
            }
        };
        Some((key.clone(), status))
    });
    statuses.collect()
}

fn name_of(target: &TargetModel) -> Option<ModelName> {
    ModelName::parse(target.model_rewrite.as_bytes())
}

fn targets(rule: &ModelRewriteRule) -> Option<Targets> {
    let weight = |target: &TargetModel| target.weight.map_or(1, |weight| weight.get().into());
    let weighted =
        rule.targets.iter().filter_map(|target| name_of(target).map(|name| (weight(target), name))).collect();
    Targets::new(weighted)
}
