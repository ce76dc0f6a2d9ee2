//! References of policies to Services.

use forebay_resources::ObjectKey;
use serde::Deserialize;
use serde_json::Value;

/// A `backendRef` to a Service.
#[derive(Debug)]
pub(super) struct ServiceRef {
    /// `None`: the namespace of the policy.
    namespace: Option<String>,
    name: String,
    pub(super) port: u16,
}

impl ServiceRef {
    /// An error starts with the path below the reference, or with a blank.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Spec {
            group: Option<String>,
            kind: Option<String>,
            namespace: Option<String>,
            name: String,
            port: Option<u16>,
        }
        let to = Spec::deserialize(value).map_err(|error| format!(": {error}"))?;
        let kind = to.kind.as_deref().unwrap_or("Service");
        if !to.group.as_deref().unwrap_or_default().is_empty() || kind != "Service" {
            return Err(format!(" to kind {kind} is not supported; only Service is"));
        }
        let port = to.port.filter(|port| *port > 0).ok_or(".port must be set for a Service")?;
        if to.name.is_empty() {
            return Err(".name is empty".into());
        }
        Ok(Self { namespace: to.namespace, name: to.name, port })
    }

    /// `namespace`: of the policy.
    pub(super) fn key(&self, namespace: &str) -> ObjectKey {
        ObjectKey::new(self.namespace.as_deref().unwrap_or(namespace), &self.name)
    }
}
