//! ConfigMaps with a base model and its adapters.

use crate::ConfigMap;

/// Labels of such ConfigMaps, with the value `true`: those of body-based routing and of its successor.
pub const CONFIG_MAP_LABELS: [&str; 2] =
    ["inference.networking.k8s.io/bbr-managed", "inference.llm-d.ai/ipp-managed"];

/// `data` of such a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseModel {
    /// `baseModel`.
    pub name: String,
    /// `adapters`, a YAML list; or why it is invalid.
    pub adapters: Result<Vec<String>, &'static str>,
}

/// `None` for a ConfigMap without these labels.
///
/// # Errors
/// If it has a label but no base model.
pub fn base_model(config_map: &ConfigMap) -> Option<Result<BaseModel, &'static str>> {
    let mut labels = config_map.metadata.labels.iter().flatten();
    if !labels.any(|(name, value)| CONFIG_MAP_LABELS.contains(&name.as_str()) && value == "true") {
        return None;
    }
    let entry = |name: &str| config_map.data.as_ref().and_then(|data| data.get(name)).map(|text| text.trim());
    let Some(name) = entry("baseModel").filter(|name| !name.is_empty()) else {
        return Some(Err("data.baseModel is missing"));
    };
    let adapters = serde_yaml_ng::from_str::<Option<Vec<String>>>(entry("adapters").unwrap_or_default())
        .map(Option::unwrap_or_default)
        .map_err(|_| "data.adapters is not a list of names");
    Some(Ok(BaseModel { name: name.to_owned(), adapters }))
}
