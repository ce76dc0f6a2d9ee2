//! What the endpoint picker needs to know of a cluster.

use std::collections::BTreeSet;

use forebay_resources::{
    Kind, ObjectKey,
    cluster::{FOLLOW, Interest, Rule, Selection},
};

use crate::{Error, PickerOptions, endpoints::parse_selector};

/// Its Role in the pool's namespace. The second rule is for whoever has objectives
/// and rewrites; the group before the last is their older name.
pub const POOL_RULES: &[Rule] = &[
    Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
    Rule {
        api_groups: &["inference.networking.x-k8s.io", "llm-d.ai"],
        resources: &["inferenceobjectives", "inferencemodelrewrites"],
        verbs: FOLLOW,
    },
    Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW },
];

/// Its Role in the agents' namespace; its ClusterRole without `--agent-namespace`.
pub const AGENT_RULES: &[Rule] = &[Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW }];

/// The pool, the pods that it selects, the objectives and rewrites beside it, and
/// the node agents.
///
/// # Errors
/// When the agents' selector is none.
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
            Selection::in_namespace(Kind::InferenceObjective, &pool.namespace),
            Selection::in_namespace(Kind::InferenceModelRewrite, &pool.namespace),
        ]);
        if let Some(object) = snapshot.inference_pools.get(&pool) {
            let pods = Selection::in_namespace(Kind::Pod, &pool.namespace);
            selections.insert(pods.selected_by(&object.spec.selector));
        }
        selections
    }))
}
