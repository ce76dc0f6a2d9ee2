//! Identities of rows, in their order.

use forebay_telemetry::v1::EndpointKey;

/// Identifies a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowKey {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) port: u32,
    pub(super) agent: usize,
    pub(super) uid: String,
    pub(super) ip: String,
}

impl RowKey {
    pub(crate) fn new(agent: usize, key: &EndpointKey) -> Self {
        let EndpointKey { namespace, pod, uid, ip, port } = key.clone();
        Self { namespace, pod, port, agent, uid, ip }
    }

    /// As text. No part of it has a slash but the last.
    pub(crate) fn id(&self) -> String {
        let Self { namespace, pod, port, agent, uid, ip } = self;
        format!("{agent}/{namespace}/{pod}/{uid}/{ip}/{port}")
    }

    /// The key of another pod.
    #[cfg(test)]
    pub(crate) fn renamed(&self, pod: &str) -> Self {
        Self { pod: pod.into(), ..self.clone() }
    }
}
