//! The objects that the endpoint picker watches, and the RBAC rules for them.

use std::collections::BTreeSet;

use forebay_resources::{
    Kind, ObjectKey,
    cluster::{FOLLOW, Interest, Rule, Selection},
};

use crate::{Error, PickerOptions, endpoints::parse_selector};

/// Rules of the Role in the namespace of the pool. The second rule covers InferenceObjectives and InferenceModelRewrites
/// under both of their API groups; `inference.networking.x-k8s.io` is the older one.
pub const POOL_RULES: &[Rule] = &[
    Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
    Rule {
        api_groups: &["inference.networking.x-k8s.io", "llm-d.ai"],
        resources: &["inferenceobjectives", "inferencemodelrewrites"],
        verbs: FOLLOW,
    },
    Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW },
];

/// Rules of the Role in the namespace of the agents, or of the ClusterRole without `--agent-namespace`.
pub const AGENT_RULES: &[Rule] = &[Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW }];

/// What to watch: the pool, the pods that it selects, the objectives and rewrites in its namespace, and the agents.
/// Objectives and rewrites are optional: the Role that GAIE's chart gives to a picker names other API groups.
///
/// # Errors
///
/// The agent selector is invalid.
pub fn interest(pool: &ObjectKey, options: &PickerOptions) -> Result<Interest, Error> {
    let agents = match &options.agent_namespace {
        Some(namespace) => Selection::in_namespace(Kind::Pod, namespace),
        None => Selection::all(Kind::Pod),
    };
    let agents = agents.selected_by(&parse_selector(&options.agent_selector)?);
    let pool = pool.clone();
    Ok(Interest::new(move |snapshot| {
        let mut selections = BTreeSet::from([
            agents.clone(),
            Selection::named(Kind::InferencePool, &pool),
            Selection::in_namespace(Kind::InferenceObjective, &pool.namespace).optional(),
            Selection::in_namespace(Kind::InferenceModelRewrite, &pool.namespace).optional(),
        ]);
        if let Some(object) = snapshot.inference_pools.get(&pool) {
            let pods = Selection::in_namespace(Kind::Pod, &pool.namespace);
            selections.insert(pods.selected_by(&object.spec.selector));
        }
        selections
    }))
}
