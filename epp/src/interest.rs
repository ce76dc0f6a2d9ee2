//! The objects that the endpoint picker watches, and the RBAC rules for them.

use std::collections::BTreeSet;

use forebay_resources::{
    Kind,
    cluster::{FOLLOW, Interest, Rule, Selection},
};

use crate::{Error, PickerOptions, agents::parse_selector, pools::PoolScope};

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

/// What to watch: the pools, the pods that they select, the objectives and rewrites in their namespaces, and the agents.
/// Objectives, rewrites and agents are optional: the Role that GAIE's manifests give to a picker names neither all API
/// groups nor other namespaces. Picks without agents use what the picker itself knows.
///
/// # Errors
///
/// The agent selector is invalid.
pub fn interest(scope: &PoolScope, options: &PickerOptions) -> Result<Interest, Error> {
    let agents = match &options.agent_namespace {
        Some(namespace) => Selection::in_namespace(Kind::Pod, namespace),
        None => Selection::all(Kind::Pod),
    };
    let agents = agents.selected_by(&parse_selector(&options.agent_selector)?).optional();
    let scope = scope.clone();
    Ok(Interest::new(move |snapshot| {
        let mut selections = of_scope(&scope);
        selections.insert(agents.clone());
        if let PoolScope::One(pool) = &scope
            && let Some(object) = snapshot.inference_pools.get(pool)
        {
            let pods = Selection::in_namespace(Kind::Pod, &pool.namespace);
            selections.insert(pods.selected_by(&object.spec.selector));
        }
        selections
    }))
}

fn of_scope(scope: &PoolScope) -> BTreeSet<Selection> {
    const OPTIONAL: [Kind; 2] = [Kind::InferenceObjective, Kind::InferenceModelRewrite];
    let in_namespace = |namespace: &String| {
        let optional = OPTIONAL.map(|kind| Selection::in_namespace(kind, namespace).optional());
        optional.into_iter()
    };
    match scope {
        PoolScope::One(pool) => std::iter::once(Selection::named(Kind::InferencePool, pool))
            .chain(in_namespace(&pool.namespace))
            .collect(),
        // One watch for the pods of all pools: a watch for each is a stream of the API server for each.
        PoolScope::Namespaces(namespaces) => {
            let required = |namespace| {
                [Kind::InferencePool, Kind::Pod].map(|kind| Selection::in_namespace(kind, namespace))
            };
            namespaces.iter().flat_map(|it| required(it).into_iter().chain(in_namespace(it))).collect()
        }
        PoolScope::All => {
            let required = [Kind::InferencePool, Kind::Pod].map(Selection::all);
            let optional = OPTIONAL.map(|kind| Selection::all(kind).optional());
            required.into_iter().chain(optional).collect()
        }
    }
}
