//! Where the keys of a policy are.

use std::collections::BTreeMap;
use std::fmt;

use forebay_resources::ObjectKey;

/// The objects with the keys of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `secretRef`
    Secret(ObjectKey),
    /// `secretSelector`: namespace, labels.
    Secrets(String, BTreeMap<String, String>),
    /// `configMapSelector`: namespace, labels.
    ConfigMaps(String, BTreeMap<String, String>),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, namespace, labels) = match self {
            Self::Secret(key) => return write!(f, "Secret {key}"),
            Self::Secrets(namespace, labels) => ("Secret", namespace, labels),
            Self::ConfigMaps(namespace, labels) => ("ConfigMap", namespace, labels),
        };
        write!(f, "{kind} of namespace {namespace} with the labels {}", label_selector(labels))
    }
}

/// `a=b,c=d`
pub fn label_selector(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}
