//! Model maps from AgentgatewayPolicies and ConfigMaps.

use forebay_grpc::names::BASE_MODEL_NAME;
use forebay_resources::{
    AgentgatewayPolicy, HeaderTransformation, ObjectKey, Snapshot, TrafficPhase, base_model, parse_model_map,
};

use super::policies::{PolicyEffect, PolicyProblem};
use super::targets::listener_level;
use crate::table::ModelMap;

/// The model map of a listener, and the objects that take part in it.
#[derive(Debug, Default)]
pub struct ListenerModels {
    /// Base models of model names.
    pub map: ModelMap,
    /// AgentgatewayPolicies that target the listener, with what is invalid in their transformations.
    pub policies: Vec<(ObjectKey, Vec<PolicyProblem>)>,
    /// Errors in ConfigMaps.
    pub config_map_errors: Vec<(ObjectKey, String)>,
}

/// The models of a Gateway's listener: policies that target it, then ConfigMaps.
pub fn listener_models(snapshot: &Snapshot, gateway: &ObjectKey, listener: &str) -> ListenerModels {
    let mut models = ListenerModels::default();
    for (key, policy) in &snapshot.agentgateway_policies {
        if listener_level(snapshot, policy, key, gateway, listener).is_some() {
            models.policies.push((key.clone(), add_policy(&mut models.map, key, policy)));
        }
    }
    add_config_maps(&mut models, snapshot);
    models
}

/// Returns what is invalid or not supported.
fn add_policy(map: &mut ModelMap, key: &ObjectKey, policy: &AgentgatewayPolicy) -> Vec<PolicyProblem> {
    let mut problems = Vec::new();
    let Some(traffic) = &policy.spec.traffic else { return problems };
    let request = traffic.transformation.as_ref().and_then(|it| it.request.as_ref());
    for set in request.into_iter().flat_map(|request| &request.set) {
        let failed = match add_header(map, key, traffic.phase, set) {
            Ok(failed) => failed,
            Err(why) => vec![why],
        };
        problems.extend(failed.into_iter().map(|why| PolicyProblem {
            effect: PolicyEffect::NotSet,
            message: format!("header {} is not set: {why}", set.name),
        }));
    }
    problems
}

/// Returns the entries that cannot be added; fails if the header cannot be set at all.
fn add_header(
    map: &mut ModelMap,
    key: &ObjectKey,
    phase: TrafficPhase,
    set: &HeaderTransformation,
) -> Result<Vec<String>, String> {
    if !set.name.eq_ignore_ascii_case(BASE_MODEL_NAME) {
        return Err(format!("only {BASE_MODEL_NAME} is supported"));
    }
    if phase != TrafficPhase::PreRouting {
        return Err("the policy's phase is not PreRouting".into());
    }
    // Also if the expression is invalid: its author did not want to admit every name.
    map.close();
    let entries = parse_model_map(&set.value)?.into_iter();
    Ok(entries.filter_map(|(name, base)| map.add(name, &base, key).err()).collect())
}

fn add_config_maps(models: &mut ListenerModels, snapshot: &Snapshot) {
    for (key, config_map) in &snapshot.config_maps {
        let Some(base) = base_model(config_map) else { continue };
        let mut fail = |why: String| models.config_map_errors.push((key.clone(), why));
        let base = match base {
            Ok(base) => base,
            Err(why) => {
                fail(why.into());
                continue;
            }
        };
        models.map.add(base.name.clone(), &base.name, key).unwrap_or_else(&mut fail);
        match base.adapters {
            Ok(adapters) => {
                for adapter in adapters {
                    models.map.add(adapter, &base.name, key).unwrap_or_else(&mut fail);
                }
            }
            Err(why) => fail(why.into()),
        }
    }
}
