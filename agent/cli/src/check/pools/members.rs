//! Pools without ready pods, and the pods that may have been meant.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{InferencePool, Kind, ObjectKey, Pod};
use forebay_routing::{PoolProblem, reason};

use super::{
    super::{
        advice::{Advice, kubectl},
        finding::{Finding, Level},
        installation::{GATEWAY_SELECTOR, Installation},
        nearest::nearest,
    },
    finding,
};

/// Maximum pods and labels in a message.
const MAX_SHOWN: usize = 3;

pub(super) fn none_ready(
    installation: &Installation,
    key: &ObjectKey,
    pool: &InferencePool,
    mut problem: PoolProblem,
) -> Finding {
    let selector = show(&pool.spec.selector.match_labels);
    if problem.status.reason != reason::NO_PODS {
        let fix = kubectl(&["describe", "pods", "-n", &key.namespace, "-l", &selector]);
        return finding(Level::Error, key, problem, fix);
    }
    let (similar, fix) = similar_labels(installation, key, pool);
    problem.status.message = format!("{}; {similar}", problem.status.message);
    finding(Level::Error, key, problem, fix)
}

fn show(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels of existing pods that may have been meant, and what to do. Never a command: pods with a similar label may
/// serve another model, and the pool's own pods may come later.
fn similar_labels(installation: &Installation, key: &ObjectKey, pool: &InferencePool) -> (String, Advice) {
    let wanted = &pool.spec.selector.match_labels;
    let deploy = format!("deploy the model server there with the label {}", show(wanted));
    let mut candidates: Vec<(&ObjectKey, &Pod)> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for (pod_key, pod) in installation.snapshot.pods.in_namespace(&key.namespace) {
        match role(installation, key, pod) {
            Some(role) => others.push(format!("{} is {role}", pod_key.name)),
            None => candidates.push((pod_key, pod)),
        }
    }
    if candidates.is_empty() {
        let there = match others.len() {
            0 => "the namespace has no Pods".to_owned(),
            count => format!("the {count} Pods there have other tasks: {}", first(&others)),
        };
        return (there, deploy.into());
    }
    let labels: BTreeSet<(&String, &String)> =
        candidates.iter().flat_map(|(_, pod)| pod.metadata.labels.iter().flatten()).collect();
    // Labels of the selector that no pod has: only they are the cause.
    let missing: Vec<(&String, &String)> = wanted.iter().filter(|pair| !labels.contains(pair)).collect();
    let shown: Vec<String> = similar(&missing, &labels)
        .into_iter()
        .map(|(name, value)| {
            let has = |(_, pod): &&(&ObjectKey, &Pod)| {
                pod.metadata.labels.as_ref().is_some_and(|it| it.get(name) == Some(value))
            };
            let pods: Vec<String> = candidates.iter().filter(has).map(|(key, _)| key.name.clone()).collect();
            format!("{name}={value} (Pod {})", first(&pods))
        })
        .collect();
    if shown.is_empty() {
        let there = match missing.len() {
            0 => "no single Pod has all of these labels".to_owned(),
            _ => format!("none of the {} other Pods there has a similar label", candidates.len()),
        };
        return (there, deploy.into());
    }
    let fix = format!(
        "{deploy}; if one of these Pods is the pool's model server, correct the label in its pod template, or replace \
         spec.selector.matchLabels of the pool as a whole (a merge patch adds a label to it)"
    );
    (format!("Pods there have {}", first(&shown)), fix.into())
}

/// Labels with the name or the value of a missing one, the most similar first.
fn similar<'a>(
    missing: &[(&'a String, &'a String)],
    labels: &BTreeSet<(&'a String, &'a String)>,
) -> Vec<(&'a String, &'a String)> {
    let mut similar = Vec::new();
    for (name, value) in missing {
        let values: Vec<&String> = labels.iter().filter(|(it, _)| it == name).map(|(_, it)| *it).collect();
        let most_similar = nearest(value, values.iter().map(|it| it.as_str()));
        let (nearest, others): (Vec<&String>, Vec<&String>) =
            values.iter().copied().partition(|it| Some(it.as_str()) == most_similar);
        similar.extend(nearest.into_iter().chain(others).map(|it| (*name, it)));
        similar.extend(labels.iter().copied().filter(|(other, it)| other != name && it == value));
    }
    similar
}

/// What a pod is for, if it is known not to be a model server of this pool.
fn role(installation: &Installation, pool: &ObjectKey, pod: &Pod) -> Option<String> {
    let snapshot = &installation.snapshot;
    let labels = pod.metadata.labels.as_ref()?;
    if installation.agent_selector.matches(pod) {
        return Some("an agent".into());
    }
    if GATEWAY_SELECTOR
        .split_once('=')
        .is_some_and(|(name, value)| labels.get(name).is_some_and(|it| it == value))
    {
        return Some("a gateway".into());
    }
    for (key, other) in snapshot.inference_pools.in_namespace(&pool.namespace) {
        if key != pool && other.spec.selector.matches(labels) {
            return Some(format!("in InferencePool {}", key.name));
        }
        let Some(picker) = &other.spec.endpoint_picker_ref else { continue };
        let service = snapshot.services.get(&ObjectKey::new(&pool.namespace, &picker.name));
        let selector = service.and_then(|it| it.spec.as_ref()?.selector.as_ref());
        if selector.is_some_and(|it| {
            !it.is_empty() && it.iter().all(|(name, value)| labels.get(name) == Some(value))
        }) {
            return Some(format!("an endpoint picker of InferencePool {}", key.name));
        }
    }
    // The Services say which pods are pickers.
    (!installation.knows(Kind::Service, Some(&pool.namespace)))
        .then(|| "not known: Services cannot be listed".to_owned())
}

/// The first few, separated by commas.
fn first(items: &[String]) -> String {
    let more = if items.len() > MAX_SHOWN { ", …" } else { "" };
    format!("{}{more}", items.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join(", "))
}
