//! Base models of model names.

use foldhash::HashMap;
use forebay_openai::ModelName;
use forebay_resources::ObjectKey;
use http::HeaderValue;

/// A mapped model.
#[derive(Debug)]
struct MappedModel {
    name: HeaderValue,
    base: HeaderValue,
    /// The AgentgatewayPolicy or ConfigMap.
    source: ObjectKey,
}

/// Base model of each model name, for one listener.
#[derive(Debug, Default)]
pub struct ModelMap {
    mapped: HashMap<String, MappedModel>,
    /// A policy lists the names: no other name has a base model.
    is_closed: bool,
}

impl ModelMap {
    /// Header values of the model and of its base model. The base is `None` for a name that the map of a policy
    /// does not list.
    pub fn headers(&self, model: &ModelName) -> (Option<HeaderValue>, Option<HeaderValue>) {
        match self.mapped.get(model.as_str()) {
            Some(MappedModel { name, base, .. }) => (Some(name.clone()), Some(base.clone())),
            None if self.is_closed => (model.to_header_value(), None),
            None => (model.to_header_value(), model.to_header_value()),
        }
    }

    /// Whether the map lists the model.
    pub fn contains(&self, model: &ModelName) -> bool {
        self.mapped.contains_key(model.as_str())
    }

    /// Whether a model that the map does not list may have a base model.
    pub fn is_open_to(&self, model: &ModelName) -> bool {
        !self.is_closed && !self.contains(model)
    }

    /// Names and base models, for labels.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.mapped
            .iter()
            .flat_map(|(name, mapped)| [Some(name.as_str()), mapped.base.to_str().ok()])
            .flatten()
    }

    /// Whether a policy lists the names: other names have no base model.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Base models of the map, each with an object that maps a name to it.
    pub fn bases(&self) -> impl Iterator<Item = (&str, &ObjectKey)> {
        self.mapped.values().filter_map(|mapped| Some((mapped.base.to_str().ok()?, &mapped.source)))
    }

    /// From now on only listed names have a base model.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Fails if the name has another base model already, or cannot be a header value.
    pub(crate) fn add(&mut self, name: String, base: &str, source: &ObjectKey) -> Result<(), String> {
        let Ok(base) = HeaderValue::from_str(base) else {
            return Err(format!("the base model {base:?} is not a valid header value"));
        };
        let Ok(value) = HeaderValue::from_bytes(name.as_bytes()) else {
            return Err(format!("the model {name:?} is not a valid header value"));
        };
        match self.mapped.get(&name) {
            Some(mapped) if mapped.base != base => {
                Err(format!("the model {name:?} already has another base model"))
            }
            _ => {
                self.mapped.insert(name, MappedModel { name: value, base, source: source.clone() });
                Ok(())
            }
        }
    }
}
