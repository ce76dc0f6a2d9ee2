//! `InferencePool` of `inference.networking.k8s.io/v1`, all fields of the
//! Gateway API Inference Extension v1.6.

#![allow(missing_docs, reason = "fields are documented by the API; their docs become part of the CRD")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MAX_MATCH_LABELS: usize = 64;
const MAX_TARGET_PORTS: usize = 8;

#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "inference.networking.k8s.io",
    version = "v1",
    kind = "InferencePool",
    plural = "inferencepools",
    shortname = "infpool",
    namespaced,
    status = "InferencePoolStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolSpec {
    pub selector: LabelSelector,
    /// Every pod IP and port is an endpoint.
    pub target_ports: Vec<TargetPort>,
    #[serde(default)]
    pub app_protocol: AppProtocol,
    /// `None` (allowed since v1.6): the gateway picks in its own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_picker_ref: Option<EndpointPickerRef>,
}

impl InferencePoolSpec {
    /// Rules of the CRD's schema and CEL expressions beyond the types, for objects that no API server has checked.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let labels = self.selector.match_labels.len();
        if !(1..=MAX_MATCH_LABELS).contains(&labels) {
            return Err(format!(
                "spec.selector.matchLabels has {labels} entries, not 1 to {MAX_MATCH_LABELS}"
            ));
        }
        let ports = self.target_ports.len();
        if !(1..=MAX_TARGET_PORTS).contains(&ports) {
            return Err(format!("spec.targetPorts has {ports} entries, not 1 to {MAX_TARGET_PORTS}"));
        }
        if self.target_ports.iter().map(|port| port.number).collect::<BTreeSet<_>>().len() != ports {
            return Err("spec.targetPorts has a duplicate port".into());
        }
        match &self.endpoint_picker_ref {
            Some(picker) if picker.kind == "Service" && picker.port.is_none() => {
                Err("spec.endpointPickerRef.port is required when kind is Service".into())
            }
            _ => Ok(()),
        }
    }
}

/// Labels that pods in the pool's namespace must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
}

impl LabelSelector {
    /// Whether `labels` has all labels of the selector. An empty selector, which the API does not allow, selects nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.match_labels.is_empty()
            && self.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetPort {
    pub number: NonZeroU16,
}

/// Protocol of the target ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AppProtocol {
    #[default]
    #[serde(rename = "http")]
    Http,
    #[serde(rename = "kubernetes.io/h2c")]
    H2c,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPickerRef {
    #[serde(default)]
    pub group: String,
    #[serde(default = "service")]
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<EndpointPickerPort>,
    #[serde(default)]
    pub failure_mode: FailureMode,
}

fn service() -> String {
    "Service".into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointPickerPort {
    pub number: NonZeroU16,
}

/// What the gateway does when the endpoint picker fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureMode {
    /// Send the request to any endpoint of the pool.
    FailOpen,
    #[default]
    FailClose,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InferencePoolStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    pub parent_ref: ParentReference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ParentReference {
    #[serde(default = "gateway_group")]
    pub group: String,
    #[serde(default = "gateway_kind")]
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

fn gateway_group() -> String {
    "gateway.networking.k8s.io".into()
}

fn gateway_kind() -> String {
    "Gateway".into()
}
