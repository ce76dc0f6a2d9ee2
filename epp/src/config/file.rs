//! The fields of an `EndpointPickerConfig`.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use serde_yaml_ng::Value;

use super::Error;

const KIND: &str = "EndpointPickerConfig";
/// The versions have the same fields, except for those of `dataLayer` that v1 renamed.
const VERSIONS: [&str; 3] = ["llm-d.ai/v1", "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "apiVersion", deserialize_with = "version")]
    _version: (),
    #[serde(rename = "kind", deserialize_with = "kind")]
    _kind: (),
    #[serde(default, deserialize_with = "list")]
    pub(super) feature_gates: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    pub(super) plugins: Vec<PluginSpec>,
    #[serde(default, deserialize_with = "list")]
    pub(super) scheduling_profiles: Vec<Profile>,
    #[serde(default)]
    pub(super) data_layer: Option<DataLayer>,
    #[serde(default)]
    pub(super) flow_control: Option<FlowControl>,
    #[serde(default)]
    pub(super) request_handler: Option<RequestHandler>,
    #[serde(default)]
    pub(super) saturation_detector: Option<Reference>,
    #[serde(default)]
    pub(super) parser: Option<Reference>,
}

/// An instance of a plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginSpec {
    #[serde(default)]
    name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) parameters: Option<Value>,
}

impl PluginSpec {
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.kind)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) name: String,
    #[serde(default, deserialize_with = "list")]
    pub(super) plugins: Vec<WeightedReference>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WeightedReference {
    pub(super) plugin_ref: String,
    #[serde(default)]
    pub(super) weight: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Reference {
    #[serde(default)]
    pub(super) plugin_ref: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DataLayer {
    #[serde(rename = "injectDefaults", default)]
    _inject_defaults: Option<bool>,
    #[serde(default, deserialize_with = "list")]
    pub(super) sources: Vec<Source>,
    #[serde(default)]
    pub(super) discovery: Option<Discovery>,
    #[serde(default)]
    pub(super) peer_discovery: Option<Reference>,
    #[serde(default)]
    pub(super) cross_replica_syncer_plugin_ref: Option<String>,
    #[serde(rename = "crossReplicaSyncInterval", default)]
    _cross_replica_sync_interval: Option<IgnoredAny>,
    #[serde(rename = "crossReplicaPublishTimeout", default)]
    _cross_replica_publish_timeout: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) cross_replica: Option<CrossReplica>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Source {
    pub(super) plugin_ref: String,
    #[serde(default, deserialize_with = "list")]
    pub(super) extractors: Vec<Reference>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Discovery {
    #[serde(rename = "pluginRef", default)]
    _plugin_ref: Option<String>,
    #[serde(rename = "endpoints", default)]
    _endpoints: Option<Reference>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CrossReplica {
    #[serde(rename = "syncerPluginRef", default)]
    _syncer_plugin_ref: Option<String>,
    #[serde(rename = "syncInterval", default)]
    _sync_interval: Option<IgnoredAny>,
    #[serde(rename = "publishTimeout", default)]
    _publish_timeout: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RequestHandler {
    #[serde(default, deserialize_with = "list")]
    pub(super) parsers: Vec<Reference>,
}

/// Read to find unknown fields and references that name nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FlowControl {
    #[serde(rename = "maxBytes", default)]
    _max_bytes: Option<IgnoredAny>,
    #[serde(rename = "maxRequests", default)]
    _max_requests: Option<IgnoredAny>,
    #[serde(rename = "defaultRequestTTL", default)]
    _default_request_ttl: Option<IgnoredAny>,
    #[serde(rename = "noEndpointRequestTTL", default)]
    _no_endpoint_request_ttl: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) default_priority_band: Option<PriorityBand>,
    #[serde(default)]
    pub(super) default_negative_priority_band: Option<PriorityBand>,
    #[serde(default, deserialize_with = "list")]
    pub(super) priority_bands: Vec<PriorityBand>,
    #[serde(default)]
    pub(super) usage_limit_policy_plugin_ref: Option<String>,
    #[serde(default)]
    pub(super) saturation_detector: Option<Reference>,
    #[serde(rename = "enableEviction", default)]
    _enable_eviction: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PriorityBand {
    #[serde(rename = "priority", default)]
    _priority: i64,
    #[serde(rename = "maxBytes", default)]
    _max_bytes: Option<IgnoredAny>,
    #[serde(rename = "maxRequests", default)]
    _max_requests: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) fairness_policy_ref: Option<String>,
    #[serde(default)]
    pub(super) ordering_policy_ref: Option<String>,
}

impl Document {
    /// Reads YAML or JSON, which is YAML.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let value: Value = serde_yaml_ng::from_str(text).map_err(Error::Syntax)?;
        if value.is_null() {
            return Err(Error::field(
                "document",
                format_args!("is empty; it needs `apiVersion` and `kind: {KIND}`"),
            ));
        }
        read("", value)
    }
}

/// Reads a value that is at `path` of the document.
pub(super) fn read<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(value).map_err(|error| Error::value(path, &error))
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let version = String::deserialize(deserializer)?;
    if VERSIONS.contains(&version.as_str()) {
        return Ok(());
    }
    let versions = VERSIONS.join(", ");
    Err(D::Error::custom(format_args!("unknown version {version:?}; known versions: {versions}")))
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let kind = String::deserialize(deserializer)?;
    if kind == KIND { Ok(()) } else { Err(D::Error::custom(format_args!("is {kind:?}; expected {KIND:?}"))) }
}

/// A list that may be null.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
