use foldhash::HashMap;
use forebay_grpc::names::BASE_MODEL_NAME;
use forebay_resources::{ObjectKey, Snapshot, TrafficPhase, base_model, parse_model_map};
use http::HeaderValue;

use forebay_openai::ModelName;

/// A model that a map has.
#[derive(Debug)]
struct Known {
    name: HeaderValue,
    base: HeaderValue,
}

/// Which base model a model name belongs to.
#[derive(Debug, Default)]
pub struct ModelMap {
    known: HashMap<String, Known>,
    /// A policy says which names there are: no other has a base.
    is_closed: bool,
}

impl ModelMap {
    /// The model's name and its base's, as headers say them. There is no base for a name that a policy's map does
    /// not have.
    pub fn headers(&self, model: &ModelName) -> (Option<HeaderValue>, Option<HeaderValue>) {
        match self.known.get(model.as_str()) {
            Some(Known { name, base }) => (Some(name.clone()), Some(base.clone())),
            None if self.is_closed => (model.to_header_value(), None),
            None => (model.to_header_value(), model.to_header_value()),
        }
    }

    /// Whether the model is in a map.
    pub fn names(&self, model: &ModelName) -> bool {
        self.known.contains_key(model.as_str())
    }

    /// Whether the model is in no map, and might be.
    pub fn is_open_to(&self, model: &ModelName) -> bool {
        !self.is_closed && !self.known.contains_key(model.as_str())
    }

    /// Names and bases, for labels.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.known.iter().flat_map(|(name, known)| [Some(name.as_str()), known.base.to_str().ok()]).flatten()
    }

    fn add(&mut self, name: String, base: &str) -> Result<(), String> {
        let Ok(base) = HeaderValue::from_str(base) else {
            return Err(format!("the base model {base:?} cannot be a header's value"));
        };
        let Ok(said) = HeaderValue::from_bytes(name.as_bytes()) else {
            return Err(format!("the model {name:?} cannot be a header's value"));
        };
        match self.known.get(&name) {
            Some(known) if known.base != base => {
                Err(format!("the model {name:?} already has another base model"))
            }
            _ => {
                self.known.insert(name, Known { name: said, base });
                Ok(())
            }
        }
    }
}

/// The map for a Gateway's listener: the policies that target it, then the ConfigMaps.
pub(super) fn model_map(
    snapshot: &Snapshot,
    gateway: &ObjectKey,
    listener: &str,
    mut said: impl FnMut(Said<'_>),
) -> ModelMap {
    let mut map = ModelMap::default();
    add_policies(&mut map, snapshot, gateway, listener, &mut said);
    add_config_maps(&mut map, snapshot, &mut |why| said(Said::ConfigMap(why)));
    map
}

/// What became of an object that maps models.
pub(super) enum Said<'a> {
    /// The policy targets the listener; or a part of it that cannot be done, and why.
    Policy(&'a ObjectKey, Result<(), String>),
    ConfigMap(String),
}

fn add_policies(
    map: &mut ModelMap,
    snapshot: &Snapshot,
    gateway: &ObjectKey,
    listener: &str,
    said: &mut impl FnMut(Said<'_>),
) {
    for (key, policy) in &snapshot.agentgateway_policies {
        let targeted = key.namespace == gateway.namespace
            && policy.spec.target_refs.iter().any(|target| {
                target.group == "gateway.networking.k8s.io"
                    && target.kind == "Gateway"
                    && target.name == gateway.name
                    && target.section_name.as_ref().is_none_or(|section| section == listener)
            });
        if !targeted {
            continue;
        }
        said(Said::Policy(key, Ok(())));
        let Some(traffic) = &policy.spec.traffic else { continue };
        let request = traffic.transformation.as_ref().and_then(|it| it.request.as_ref());
        for set in request.into_iter().flat_map(|request| &request.set) {
            let mut refuse = |why: String| {
                said(Said::Policy(key, Err(format!("header {} is not set: {why}", set.name))));
            };
            if !set.name.eq_ignore_ascii_case(BASE_MODEL_NAME) {
                refuse(format!("only {BASE_MODEL_NAME} is supported"));
                continue;
            }
            if traffic.phase != TrafficPhase::PreRouting {
                refuse("the policy's phase is not PreRouting".into());
                continue;
            }
            // Even when it cannot be read: its author did not want every name to be let through.
            map.is_closed = true;
            match parse_model_map(&set.value) {
                Ok(bases) => {
                    for (name, base) in bases {
                        map.add(name, &base).unwrap_or_else(&mut refuse);
                    }
                }
                Err(why) => refuse(why),
            }
        }
    }
}

fn add_config_maps(map: &mut ModelMap, snapshot: &Snapshot, problem: &mut impl FnMut(String)) {
    for (key, config_map) in &snapshot.config_maps {
        let Some(base) = base_model(config_map) else { continue };
        let mut refuse = |why: String| problem(format!("ConfigMap {key}: {why}"));
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
