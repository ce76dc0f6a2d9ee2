//! The known types of plugins. A new plugin is its file and one line here.

use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::{Mapping, Value};

use super::{Error, file, no_effect, refused::REFUSED};
use crate::schedule::{
    ContextLengthAware, Filter, Order, Scorer, SessionAffinity, SessionSettings,
    filter::{
        ByLabel, EndpointAttributeFilter, HeaderBasedTesting, LabelSelector, PrefixCacheAffinity, Utilization,
    },
    score::{
        ActiveRequests, AddedWaiting, BlockLoad, EndpointAttributeScorer, HeaderLabelAffinity,
        KvCacheUtilization, LMetric, LoadAware, LoraAffinity, NoHitLru, NoHitLruSettings, PrefixCache, Queue,
        RunningRequests, TokenLoad,
    },
};

/// What a plugin does in a profile.
#[derive(Debug)]
pub(super) enum Plugin {
    Filter(Box<dyn Filter>),
    Scorer(Box<dyn Scorer>),
    FilterAndScorer(Box<dyn Filter>, Box<dyn Scorer>),
    Picker(Picker),
    /// For this reason.
    NoEffect(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Picker {
    pub(super) order: Order,
    pub(super) max_endpoints: Option<usize>,
}

/// A type of plugin that is implemented.
pub(super) struct Entry {
    pub(super) name: &'static str,
    build: fn(Parameters<'_>) -> Result<Plugin, Error>,
    /// Needs `--allow-experimental-plugins`.
    is_experimental: bool,
    #[cfg(test)]
    pub(super) schema: fn() -> schemars::Schema,
    #[cfg(test)]
    pub(super) kind: &'static str,
}

/// The parameters of a plugin.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    path: &'a str,
    values: Mapping,
}

impl Parameters<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        file::read(self.path, Value::Mapping(self.values))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NoParameters {}

macro_rules! entry {
    ($name:literal, $kind:literal, $schema:ty, $build:expr) => {
        Entry {
            name: $name,
            build: $build,
            is_experimental: false,
            #[cfg(test)]
            schema: || schemars::schema_for!($schema),
            #[cfg(test)]
            kind: $kind,
        }
    };
}

/// A plugin that is its parameters.
macro_rules! filter {
    ($name:literal, $type:ty) => {
        entry!($name, "filter", $type, |it| Ok(Plugin::Filter(Box::new(it.read::<$type>()?))))
    };
}

macro_rules! scorer {
    ($name:literal, $type:ty) => {
        entry!($name, "scorer", $type, |it| Ok(Plugin::Scorer(Box::new(it.read::<$type>()?))))
    };
    ($name:literal, $type:ty, no parameters) => {
        entry!($name, "scorer", $type, |it| {
            it.read::<NoParameters>()?;
            Ok(Plugin::Scorer(Box::new(<$type>::default())))
        })
    };
    ($name:literal, $type:ty, from $settings:ty) => {
        entry!($name, "scorer", $settings, |it| {
            Ok(Plugin::Scorer(Box::new(<$type>::from(it.read::<$settings>()?))))
        })
    };
}

/// The roles of `llm-d.ai/role`.
macro_rules! role {
    ($name:literal, $function:ident) => {
        entry!($name, "filter", roles::$function, |it| {
            it.read::<NoParameters>()?;
            Ok(Plugin::Filter(Box::new(ByLabel::$function())))
        })
    };
}

macro_rules! picker {
    ($name:literal, $about:ty, $order:expr) => {
        entry!($name, "picker", $about, |it| {
            let settings = it.read::<PickerSettings>()?;
            let max_endpoints = settings.max_num_of_endpoints.map(|it| it.get());
            Ok(Plugin::Picker(Picker { order: $order, max_endpoints }))
        })
    };
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PickerSettings {
    max_num_of_endpoints: Option<std::num::NonZeroUsize>,
}

/// All implemented types.
pub(super) const ENTRIES: &[Entry] = &[
    scorer!("added-waiting-scorer", AddedWaiting, no parameters),
    scorer!("active-request-scorer", ActiveRequests),
    scorer!("block-load-scorer", BlockLoad),
    entry!("context-length-aware", "filter and scorer", ContextLengthAware, |it| {
        let plugin = it.read::<ContextLengthAware>()?;
        let scorer = Box::new(plugin.clone());
        Ok(if plugin.enable_filtering {
            Plugin::FilterAndScorer(Box::new(plugin), scorer)
        } else {
            Plugin::Scorer(scorer)
        })
    }),
    scorer!("endpoint-attribute-scorer", EndpointAttributeScorer),
    scorer!("header-label-affinity-scorer", HeaderLabelAffinity),
    scorer!("kv-cache-utilization-scorer", KvCacheUtilization, no parameters),
    scorer!("lmetric-scorer", LMetric, no parameters),
    scorer!("load-aware-scorer", LoadAware),
    scorer!("lora-affinity-scorer", LoraAffinity, no parameters),
    scorer!("no-hit-lru-scorer", NoHitLru, from NoHitLruSettings),
    scorer!("prefix-cache-scorer", PrefixCache),
    scorer!("queue-scorer", Queue, no parameters),
    scorer!("running-requests-size-scorer", RunningRequests, no parameters),
    scorer!("session-affinity-scorer", SessionAffinity, from SessionSettings),
    scorer!("token-load-scorer", TokenLoad),
    filter!("by-label", ByLabel),
    filter!("by-label-selector", LabelSelector),
    role!("decode-filter", decode),
    role!("encode-filter", encode),
    filter!("endpoint-attribute-filter", EndpointAttributeFilter),
    Entry {
        is_experimental: true,
        ..entry!("header-based-testing-filter", "filter", HeaderBasedTesting, |it| {
            it.read::<NoParameters>()?;
            Ok(Plugin::Filter(Box::new(HeaderBasedTesting)))
        })
    },
    filter!("label-selector-filter", LabelSelector),
    role!("prefill-filter", prefill),
    filter!("prefix-cache-affinity-filter", PrefixCacheAffinity),
    entry!("session-affinity-filter", "filter", SessionSettings, |it| {
        Ok(Plugin::Filter(Box::new(SessionAffinity::from(it.read::<SessionSettings>()?))))
    }),
    filter!("utilization-filter", Utilization),
    picker!("max-score-picker", pickers::MaxScore, Order::MaxScore),
    picker!("random-picker", pickers::Random, Order::Random),
    picker!("weighted-random-picker", pickers::WeightedRandom, Order::WeightedRandom),
];

/// Builds a plugin. `path`: of its entry in the document. `is_plugin`: whether a name is one of a plugin.
pub(super) fn build(
    path: &str,
    kind: &str,
    parameters: Option<Value>,
    allows_experimental: bool,
    is_plugin: &dyn Fn(&str) -> bool,
) -> Result<Plugin, Error> {
    let parameters_path = format!("{path}.parameters");
    let mut values = match parameters.unwrap_or_default() {
        Value::Null => Mapping::new(),
        Value::Mapping(values) => values,
        _ => return Err(Error::field(parameters_path, "is not a map of names to values")),
    };
    if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == kind) {
        return Err(Error::field(
            format_args!("{path}.type"),
            format_args!("{kind} is not supported: {reason}"),
        ));
    }
    if let Some((_, reason)) = no_effect::NO_EFFECT.iter().find(|(name, _)| *name == kind) {
        check_producer(&parameters_path, kind, &values)?;
        return Ok(Plugin::NoEffect(reason));
    }
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == kind) else {
        let mut known: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        known.sort_unstable();
        let known = known.join(", ");
        let reason = format!("unknown plugin type {kind:?}; known types: {known}");
        return Err(Error::field(format_args!("{path}.type"), reason));
    };
    if entry.is_experimental && !allows_experimental {
        let reason = format!("{kind} needs --allow-experimental-plugins");
        return Err(Error::field(format_args!("{path}.type"), reason));
    }
    remove_without_effect(&parameters_path, kind, &mut values, is_plugin)?;
    (entry.build)(Parameters { path: &parameters_path, values })
}

/// Whether a type is accepted, with or without effect.
pub(super) fn is_known(kind: &str) -> bool {
    ENTRIES.iter().any(|entry| entry.name == kind)
        || no_effect::NO_EFFECT.iter().any(|(name, _)| *name == kind)
}

fn check_producer(path: &str, kind: &str, values: &Mapping) -> Result<(), Error> {
    let Some((_, known)) = no_effect::PRODUCER_PARAMETERS.iter().find(|(name, _)| *name == kind) else {
        return Ok(());
    };
    for name in values.keys().filter_map(Value::as_str) {
        if !known.contains(&name) {
            let expected = if known.is_empty() {
                "there are none".to_owned()
            } else {
                format!("expected one of `{}`", known.join("`, `"))
            };
            return Err(Error::field(
                format_args!("{path}.{name}"),
                format_args!("unknown field `{name}`, {expected}"),
            ));
        }
    }
    Ok(())
}

/// Removes the known parameters that have no effect.
fn remove_without_effect(
    path: &str,
    kind: &str,
    values: &mut Mapping,
    is_plugin: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    let known = no_effect::PARAMETERS.iter().find(|(name, _)| *name == kind);
    for name in known.map_or(&[][..], |(_, names)| names) {
        let Some(value) = values.remove(*name) else { continue };
        let Some(text) = value.as_str() else {
            return Err(Error::field(format_args!("{path}.{name}"), "is not a text"));
        };
        if name.ends_with("ProducerName") && !text.is_empty() && !is_plugin(text) && !is_known(text) {
            return Err(Error::field(
                format_args!("{path}.{name}"),
                format_args!("no plugin has the name {text:?}"),
            ));
        }
    }
    check_constants(path, kind, values)
}

/// Parameters that choose between sources, of which one is supported.
fn check_constants(path: &str, kind: &str, values: &mut Mapping) -> Result<(), Error> {
    let constant = match kind {
        "prefix-cache-affinity-filter" => ("ttftSource", "prefillThroughput"),
        "endpoint-attribute-scorer" | "endpoint-attribute-filter" => ("producer", "core-metrics-extractor"),
        _ => return Ok(()),
    };
    let (name, only) = constant;
    match values.remove(name) {
        Some(value) if value.as_str() != Some(only) => {
            Err(Error::field(format_args!("{path}.{name}"), format_args!("only {only:?} is supported")))
        }
        _ => Ok(()),
    }
}

/// The descriptions of the pickers.
#[cfg(test)]
#[allow(dead_code, reason = "read as schemas")]
mod pickers {
    use schemars::JsonSchema;

    /// Picks the endpoint with the highest sum of weighted scores. Endpoints with equal sums take turns.
    #[derive(JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct MaxScore {
        /// Maximum endpoints of a decision. Default: `--endpoints-per-pick`. Never more than that.
        max_num_of_endpoints: usize,
    }

    /// Picks any endpoint that the filters leave.
    #[derive(JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Random {
        /// Maximum endpoints of a decision. Default: `--endpoints-per-pick`. Never more than that.
        max_num_of_endpoints: usize,
    }

    /// Picks any endpoint, with a probability in proportion to its sum of weighted scores.
    #[derive(JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct WeightedRandom {
        /// Maximum endpoints of a decision. Default: `--endpoints-per-pick`. Never more than that.
        max_num_of_endpoints: usize,
    }
}

/// The descriptions of the filters by role.
#[cfg(test)]
#[allow(non_camel_case_types, reason = "named as the constructors")]
mod roles {
    use schemars::JsonSchema;

    /// Keeps the endpoints whose label `llm-d.ai/role` is `decode`, `prefill-decode`, `both` or `encode-prefill-decode`, and
    /// those without the label.
    #[derive(JsonSchema)]
    pub(super) struct decode;

    /// Keeps the endpoints whose label `llm-d.ai/role` is `prefill`, `encode-prefill`, `prefill-decode`, `both` or
    /// `encode-prefill-decode`.
    #[derive(JsonSchema)]
    pub(super) struct prefill;

    /// Keeps the endpoints whose label `llm-d.ai/role` is `encode`, `encode-prefill` or `encode-prefill-decode`.
    #[derive(JsonSchema)]
    pub(super) struct encode;
}
