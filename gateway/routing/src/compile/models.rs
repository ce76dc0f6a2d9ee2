//! Model maps from AgentgatewayPolicies and ConfigMaps.

use forebay_grpc::names::BASE_MODEL_NAME;
use forebay_resources::{
    AgentgatewayPolicy, HeaderTransformation, ObjectKey, Snapshot, TrafficPhase, base_model, parse_model_map,
};

use crate::names::GATEWAY_GROUP;
use crate::table::ModelMap;

/// An object that takes part in a model map.
pub(super) enum ModelMapEvent<'a> {
    /// The policy targets the listener; or a part of it is not supported, and why.
    Policy(&'a ObjectKey, Result<(), String>),
    /// The ConfigMap has an error.
    ConfigMap(&'a ObjectKey, String),
}

/// The map of a Gateway's listener: policies that target it, then ConfigMaps.
pub(super) fn model_map(
    snapshot: &Snapshot,
    gateway: &ObjectKey,
    listener: &str,
    mut report: impl FnMut(ModelMapEvent<'_>),
) -> ModelMap {
    let mut map = ModelMap::default();
    for (key, policy) in &snapshot.agentgateway_policies {
        if targets(policy, key, gateway, listener) {
            report(ModelMapEvent::Policy(key, Ok(())));
            add_policy(&mut map, policy, |why| report(ModelMapEvent::Policy(key, Err(why))));
        }
    }
    add_config_maps(&mut map, snapshot, &mut |key, why| report(ModelMapEvent::ConfigMap(key, why)));
    map
}

/// A policy targets a Gateway of its own namespace, or one listener of it.
fn targets(policy: &AgentgatewayPolicy, key: &ObjectKey, gateway: &ObjectKey, listener: &str) -> bool {
    key.namespace == gateway.namespace
        && policy.spec.target_refs.iter().any(|target| {
            target.group == GATEWAY_GROUP
                && target.kind == "Gateway"
                && target.name == gateway.name
                && target.section_name.as_ref().is_none_or(|section| section == listener)
        })
}

fn add_policy(map: &mut ModelMap, policy: &AgentgatewayPolicy, mut refuse: impl FnMut(String)) {
    let Some(traffic) = &policy.spec.traffic else { return };
    let request = traffic.transformation.as_ref().and_then(|it| it.request.as_ref());
    for set in request.into_iter().flat_map(|request| &request.set) {
        if let Err(why) = add_header(map, &traffic.phase, set, &mut refuse) {
            refuse(format!("header {} is not set: {why}", set.name));
        }
    }
}

fn add_header(
    map: &mut ModelMap,
    phase: &TrafficPhase,
    set: &HeaderTransformation,
    refuse: &mut impl FnMut(String),
) -> Result<(), String> {
    if !set.name.eq_ignore_ascii_case(BASE_MODEL_NAME) {
        return Err(format!("only {BASE_MODEL_NAME} is supported"));
    }
    if *phase != TrafficPhase::PreRouting {
        return Err("the policy's phase is not PreRouting".into());
    }
    // Also if the expression is invalid: its author did not want to admit every name.
    map.close();
    for (name, base) in parse_model_map(&set.value)? {
        if let Err(why) = map.add(name, &base) {
            refuse(format!("header {} is not set: {why}", set.name));
        }
    }
    Ok(())
}

fn add_config_maps<'a>(
    map: &mut ModelMap,
    snapshot: &'a Snapshot,
    refuse: &mut impl FnMut(&'a ObjectKey, String),
) {
    for (key, config_map) in &snapshot.config_maps {
        let Some(base) = base_model(config_map) else { continue };
        let mut refuse = |why: String| refuse(key, why);
        let base = match base {
            Ok(base) => base,
            Err(why) => {
                refuse(why.into());
                continue;
            }
        };
        map.add(base.name.clone(), &base.name).unwrap_or_else(&mut refuse);
        match base.adapters {
            Ok(adapters) => {
                for adapter in adapters {
                    map.add(adapter, &base.name).unwrap_or_else(&mut refuse);
                }
            }
            Err(why) => refuse(why.into()),
        }
    }
}
