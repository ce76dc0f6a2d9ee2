//! Which endpoints serve a model or adapter, by the lists of their engines.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use forebay_telemetry::v1;

/// The models of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelList {
    names: Arc<[String]>,
    /// The names that are adapters of another model.
    adapters: Arc<[String]>,
    /// The list has all models of the engine.
    is_complete: bool,
}

impl ModelList {
    /// `None` if the engine has listed no model.
    pub(super) fn of(engine: &v1::EngineLoad) -> Option<Self> {
        let names = engine.models.iter().map(|model| model.id.clone()).collect();
        let adapters =
            engine.models.iter().filter(|it| it.parent.is_some()).map(|it| it.id.clone()).collect();
        let is_complete = engine.models_omitted == 0;
        (!engine.models.is_empty()).then_some(Self { names, adapters, is_complete })
    }

    fn may_have(&self, name: &str) -> bool {
        !self.is_complete || self.has(name)
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|it| it == name)
    }
}

/// The lists of all endpoints of a pool, by index.
#[derive(Debug, Default)]
pub(crate) struct ServedModels {
    lists: Box<[Option<ModelList>]>,
    /// Models that some but not all endpoints have: the only ones that matter.
    partial: HashMap<String, Box<[bool]>>,
    /// The models that are adapters.
    adapters: HashSet<String>,
}

impl ServedModels {
    pub(super) fn new(lists: impl Iterator<Item = Option<ModelList>>) -> Self {
        let lists: Box<[Option<ModelList>]> = lists.collect();
        let mut partial = HashMap::new();
        for name in lists.iter().flatten().flat_map(|list| list.names.iter()) {
            if !partial.contains_key(name) {
                let may_serve = |list: &Option<ModelList>| list.as_ref().is_none_or(|it| it.may_have(name));
                partial.insert(name.clone(), lists.iter().map(may_serve).collect::<Box<[bool]>>());
            }
        }
        partial.retain(|_, may_serve| may_serve.contains(&false));
        let adapters = lists.iter().flatten().flat_map(|list| list.adapters.iter().cloned()).collect();
        Self { lists, partial, adapters }
    }

    /// One engine lists these models.
    #[cfg(test)]
    pub(crate) fn listing(models: Vec<v1::Model>) -> Self {
        let list = ModelList::of(&v1::EngineLoad { models, ..v1::EngineLoad::default() });
        Self::new(std::iter::once(list))
    }

    /// The endpoints that may serve the model. `None`: the lists exclude no endpoint. An engine that has listed nothing may
    /// serve everything.
    pub(crate) fn of(&self, model: &str) -> Option<&[bool]> {
        self.partial.get(model).map(|may_serve| &**may_serve)
    }

    /// Whether an engine lists the model as an adapter of another one.
    pub(crate) fn is_adapter(&self, model: &str) -> bool {
        self.adapters.contains(model)
    }

    /// Whether the endpoint's engine lists the model.
    pub(crate) fn lists(&self, index: usize, model: &str) -> bool {
        self.lists.get(index).and_then(Option::as_ref).is_some_and(|list| list.has(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str], models_omitted: u32) -> Option<ModelList> {
        let models = names.iter().map(|id| v1::Model { id: (*id).into(), ..v1::Model::default() }).collect();
        ModelList::of(&v1::EngineLoad { models, models_omitted, ..v1::EngineLoad::default() })
    }

    #[test]
    fn only_a_complete_list_without_the_model_excludes() {
        let lists = [list(&["base", "lora"], 0), list(&["base"], 0), list(&["base"], 3), list(&[], 0)];
        let served = ServedModels::new(lists.into_iter());
        assert_eq!(served.of("lora"), Some(&[true, false, true, true][..]));
        assert_eq!(served.of("base"), None, "all may serve it");
        assert_eq!(served.of("other"), None, "none lists it");
        assert!(served.lists(0, "lora") && !served.lists(2, "lora"));
    }
}
