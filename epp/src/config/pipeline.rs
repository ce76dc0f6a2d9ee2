//! A document becomes a pipeline.

use std::{collections::BTreeMap, fmt, fs, path::Path, sync::Arc};

use super::{
    Error,
    file::{Document, FlowControl, Reference, WeightedReference},
    no_effect,
    registry::{self, Plugin},
};
use crate::schedule::{Filter, MAX_ENDPOINTS_PER_PICK, Order, Pipeline, Pipelines, Scorer};

/// What is not in the document.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Accept experimental plugins.
    pub allows_experimental: bool,
}

/// A configuration.
#[derive(Debug)]
pub struct Config {
    /// What decides the picks.
    pub pipeline: Pipeline,
    /// What has no effect.
    pub notices: Vec<Notice>,
    text: String,
    options: Options,
}

/// Parts of a document that have no effect, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Names of plugins, or paths of fields.
    pub subjects: Vec<String>,
    /// Why they have no effect.
    pub reason: &'static str,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no effect: {} ({})", self.subjects.join(", "), self.reason)
    }
}

/// The plugins of a document by name.
struct Plugins {
    by_name: BTreeMap<String, Option<Plugin>>,
    /// By reason.
    without_effect: BTreeMap<&'static str, Vec<String>>,
}

impl Config {
    /// Reads an `EndpointPickerConfig` from a file.
    ///
    /// # Errors
    ///
    /// As [`Config::parse`], or the file cannot be read.
    pub fn read(path: &Path, options: Options) -> Result<Self, Error> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, options)
    }

    /// Reads an `EndpointPickerConfig` in YAML or JSON.
    ///
    /// # Errors
    ///
    /// The text is not such a document, or it asks for something that is not supported. The error names the field.
    ///
    /// # Examples
    ///
    /// ```
    /// use forebay_epp::config::{Config, Options};
    ///
    /// let text = "{apiVersion: llm-d.ai/v1, kind: EndpointPickerConfig, plugins: [{type: queue-scorer}]}";
    /// let config = Config::parse(text, Options::default())?;
    /// assert_eq!(config.pipeline.scorers().collect::<Vec<_>>(), [("queue-scorer", 1.0)]);
    /// # Ok::<(), forebay_epp::config::Error>(())
    /// ```
    pub fn parse(text: &str, options: Options) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        check_gates(&document.feature_gates)?;
        let mut references = Vec::new();
        collect_references(&document, &mut references)?;
        let Document { plugins, mut scheduling_profiles, data_layer, flow_control, request_handler, .. } =
            document;
        let order: Vec<String> = plugins.iter().map(|spec| spec.name().to_owned()).collect();
        let mut plugins = Plugins::build(plugins, options)?;
        for (path, name) in references {
            if !registry::is_known(&name) {
                plugins.check_name(&path, &name)?;
            }
        }
        let mut note = |is_set, field: &str, reason| {
            if is_set {
                plugins.without_effect.entry(reason).or_default().push(field.to_owned());
            }
        };
        note(data_layer.is_some(), "dataLayer", no_effect::FIELD_DATA_LAYER);
        note(flow_control.is_some(), "flowControl", no_effect::FIELD_FLOW_CONTROL);
        note(request_handler.is_some(), "requestHandler", no_effect::FIELD_PARSERS);
        if let [_, second, ..] = &scheduling_profiles[..] {
            let reason =
                format!("profile {:?} would never be used; only one profile is supported", second.name);
            return Err(Error::field("schedulingProfiles[1]", reason));
        }
        let references = scheduling_profiles.pop().map_or_else(
            || order.into_iter().map(|plugin_ref| WeightedReference { plugin_ref, weight: None }).collect(),
            |profile| profile.plugins,
        );
        let pipeline = plugins.take_profile(references)?;
        let notices = plugins.without_effect.into_iter();
        Ok(Self {
            pipeline,
            notices: notices.map(|(reason, subjects)| Notice { subjects, reason }).collect(),
            text: text.to_owned(),
            options,
        })
    }

    /// A pipeline of the document for each pool.
    pub fn into_pipelines(self) -> Pipelines {
        let Self { pipeline, text, options, .. } = self;
        let first = Arc::new(pipeline);
        // The same text was read before, so it is read again without an error.
        Pipelines::new(move || match Self::parse(&text, options) {
            Ok(config) => Arc::new(config.pipeline),
            Err(_) => Arc::clone(&first),
        })
    }
}

impl Plugins {
    fn build(specs: Vec<super::file::PluginSpec>, options: Options) -> Result<Self, Error> {
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for (index, spec) in specs.iter().enumerate() {
            if let Some(first) = names.insert(spec.name().to_owned(), index) {
                let reason =
                    format!("{:?} is already the name of plugins[{first}]; set another `name`", spec.name());
                return Err(Error::field(format_args!("plugins[{index}].name"), reason));
            }
        }
        let mut plugins = Self { by_name: BTreeMap::new(), without_effect: BTreeMap::new() };
        let is_plugin = |name: &str| names.contains_key(name);
        for (index, spec) in specs.into_iter().enumerate() {
            let (path, name) = (format!("plugins[{index}]"), spec.name().to_owned());
            let plugin =
                registry::build(&path, &spec.kind, spec.parameters, options.allows_experimental, &is_plugin)?;
            if let Plugin::NoEffect(reason) = plugin {
                plugins.without_effect.entry(reason).or_default().push(name.clone());
            }
            plugins.by_name.insert(name, Some(plugin));
        }
        Ok(plugins)
    }

    fn check_name(&self, path: &str, name: &str) -> Result<(), Error> {
        if self.by_name.contains_key(name) {
            return Ok(());
        }
        let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(Error::field(path, format_args!("no plugin has the name {name:?}; plugins: {names}")))
    }

    /// The pipeline of a profile.
    fn take_profile(&mut self, references: Vec<WeightedReference>) -> Result<Pipeline, Error> {
        let mut filters: Vec<(String, Box<dyn Filter>)> = Vec::new();
        let mut scorers: Vec<(String, Box<dyn Scorer>, f32)> = Vec::new();
        let mut picker = None;
        for (index, WeightedReference { plugin_ref, weight }) in references.into_iter().enumerate() {
            let path = format!("schedulingProfiles[0].plugins[{index}]");
            let weight = check_weight(&path, weight.unwrap_or(1.0))?;
            let path = format!("{path}.pluginRef");
            self.check_name(&path, &plugin_ref)?;
            let Some(plugin) = self.by_name.get_mut(&plugin_ref).and_then(Option::take) else {
                return Err(Error::field(path, format_args!("{plugin_ref:?} is already in this profile")));
            };
            match plugin {
                Plugin::Filter(filter) => filters.push((plugin_ref, filter)),
                Plugin::Scorer(scorer) => scorers.push((plugin_ref, scorer, weight)),
                Plugin::FilterAndScorer(filter, scorer) => {
                    filters.push((plugin_ref.clone(), filter));
                    scorers.push((plugin_ref, scorer, weight));
                }
                Plugin::Picker(_) if picker.is_some() => {
                    return Err(Error::field(path, "a profile has one picker; this is the second"));
                }
                Plugin::Picker(it) => picker = Some(it),
                Plugin::NoEffect(_) => {}
            }
        }
        let max_endpoints = picker.and_then(|picker| picker.max_endpoints);
        if max_endpoints.is_some_and(|it| it > MAX_ENDPOINTS_PER_PICK) {
            self.without_effect.entry(MANY).or_default().push("maxNumOfEndpoints".to_owned());
        }
        let order = picker.map_or(Order::MaxScore, |picker| picker.order);
        Ok(Pipeline::new(filters, scorers, order).with_max_endpoints(max_endpoints))
    }
}

const MANY: &str = "a decision has at most three endpoints";

fn check_weight(path: &str, weight: f64) -> Result<f32, Error> {
    let narrow = weight as f32;
    if narrow.is_finite() && weight >= 0.0 {
        Ok(narrow)
    } else {
        let reason = format_args!("{weight} is not a number of at least 0");
        Err(Error::field(format_args!("{path}.weight"), reason))
    }
}

/// Gates of the ecosystem whose feature is always on here, or has no counterpart.
const KNOWN_GATES: [&str; 3] = ["haPopulateNonLeaderDatastore", "dataLayer", "prepareDataPlugins"];

fn check_gates(gates: &[String]) -> Result<(), Error> {
    for (index, gate) in gates.iter().enumerate() {
        let path = format!("featureGates[{index}]");
        let (name, value) = gate.split_once('=').unwrap_or((gate, "true"));
        let Ok(is_on) = value.trim().to_ascii_lowercase().parse::<bool>() else {
            return Err(Error::field(path, format_args!("{value:?} is neither true nor false")));
        };
        match name {
            "flowControl" if is_on => {
                let reason =
                    "flowControl is not supported: requests are neither queued nor rejected by saturation";
                return Err(Error::field(path, reason));
            }
            "flowControl" => {}
            _ if KNOWN_GATES.contains(&name) => {}
            _ => {
                let known = KNOWN_GATES.join(", ");
                let reason = format_args!("unknown feature gate {name:?}; known gates: flowControl, {known}");
                return Err(Error::field(path, reason));
            }
        }
    }
    Ok(())
}

/// References outside of the profiles, with their paths.
fn collect_references(document: &Document, references: &mut Vec<(String, String)>) -> Result<(), Error> {
    let mut push = |path: String, name: &str| references.push((path, name.to_owned()));
    if let Some(layer) = &document.data_layer {
        if layer.discovery.is_some() {
            let reason =
                "is not supported: endpoints come from the cluster, or from the folder of --resources";
            return Err(Error::field("dataLayer.discovery", reason));
        }
        for field in [layer.peer_discovery.is_some(), layer.cross_replica.is_some()] {
            if field || layer.cross_replica_syncer_plugin_ref.is_some() {
                let reason =
                    "replicas do not exchange state: the agents' counts contain the requests of all replicas";
                return Err(Error::field(
                    "dataLayer",
                    format_args!("leave out peers and crossReplica: {reason}"),
                ));
            }
        }
        for (index, source) in layer.sources.iter().enumerate() {
            let path = format!("dataLayer.sources[{index}]");
            push(format!("{path}.pluginRef"), &source.plugin_ref);
            for (number, extractor) in source.extractors.iter().enumerate() {
                push(format!("{path}.extractors[{number}].pluginRef"), &extractor.plugin_ref);
            }
        }
    }
    for (index, parser) in document.request_handler.iter().flat_map(|it| &it.parsers).enumerate() {
        push(format!("requestHandler.parsers[{index}].pluginRef"), &parser.plugin_ref);
    }
    let mut optional = |path: &str, reference: &Option<Reference>| {
        if let Some(Reference { plugin_ref }) = reference {
            push(format!("{path}.pluginRef"), plugin_ref);
        }
    };
    optional("saturationDetector", &document.saturation_detector);
    optional("parser", &document.parser);
    if let Some(flow) = &document.flow_control {
        optional("flowControl.saturationDetector", &flow.saturation_detector);
        collect_policies(flow, &mut push);
    }
    Ok(())
}

fn collect_policies(flow: &FlowControl, push: &mut impl FnMut(String, &str)) {
    let named = [
        ("defaultPriorityBand".to_owned(), flow.default_priority_band.as_ref()),
        ("defaultNegativePriorityBand".to_owned(), flow.default_negative_priority_band.as_ref()),
    ];
    let listed = flow.priority_bands.iter().enumerate();
    let bands =
        named.into_iter().chain(listed.map(|(index, it)| (format!("priorityBands[{index}]"), Some(it))));
    for (path, band) in bands {
        let Some(band) = band else { continue };
        for (field, policy) in [
            ("fairnessPolicyRef", &band.fairness_policy_ref),
            ("orderingPolicyRef", &band.ordering_policy_ref),
        ] {
            if let Some(policy) = policy {
                push(format!("flowControl.{path}.{field}"), policy);
            }
        }
    }
    if let Some(policy) = &flow.usage_limit_policy_plugin_ref {
        push("flowControl.usageLimitPolicyPluginRef".to_owned(), policy);
    }
}
