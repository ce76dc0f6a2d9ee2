//! An immutable view of all objects.

use std::{fmt, sync::Arc};

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, experimental::httproutes::HttpRoute, gatewayclasses::GatewayClass,
    gateways::Gateway, referencegrants::ReferenceGrant,
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    index::{Index, PoolMembers, ServiceSlices},
    key::ObjectKey,
    membership::{Addresses, Exclusion},
    object_map::ObjectMap,
    types::{AgentgatewayPolicy, InferenceModelRewrite, InferenceObjective, InferencePool, Quota, Secret},
};

/// All objects at one time. A clone is cheap and shares the objects.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Increases with every change; 0 until a provider has loaded the objects.
    pub generation: u64,
    /// `gateway.networking.k8s.io` GatewayClass.
    pub gateway_classes: ObjectMap<GatewayClass>,
    /// `gateway.networking.k8s.io` Gateway.
    pub gateways: ObjectMap<Gateway>,
    /// `gateway.networking.k8s.io` HTTPRoute.
    pub http_routes: ObjectMap<HttpRoute>,
    /// `gateway.networking.k8s.io` ReferenceGrant.
    pub reference_grants: ObjectMap<ReferenceGrant>,
    /// `gateway.networking.k8s.io` BackendTLSPolicy.
    pub backend_tls_policies: ObjectMap<BackendTlsPolicy>,
    /// `inference.networking.k8s.io` InferencePool.
    pub inference_pools: ObjectMap<InferencePool>,
    /// `llm-d.ai` InferenceObjective.
    pub inference_objectives: ObjectMap<InferenceObjective>,
    /// `llm-d.ai` InferenceModelRewrite.
    pub inference_model_rewrites: ObjectMap<InferenceModelRewrite>,
    /// `agentgateway.dev` AgentgatewayPolicy.
    pub agentgateway_policies: ObjectMap<AgentgatewayPolicy>,
    /// `forebay.dev` Quota.
    pub quotas: ObjectMap<Quota>,
    /// Pods; from a cluster without the fields that are not needed.
    pub pods: ObjectMap<Pod>,
    /// Services.
    pub services: ObjectMap<Service>,
    /// EndpointSlices.
    pub endpoint_slices: ObjectMap<EndpointSlice>,
    /// ConfigMaps.
    pub config_maps: ObjectMap<ConfigMap>,
    /// Secrets.
    pub secrets: ObjectMap<Secret>,
    /// Namespaces, for label selectors of listeners.
    pub namespaces: ObjectMap<Namespace>,
    /// Invalid objects, which are in none of the maps.
    pub problems: Vec<Problem>,
    pub(crate) index: Arc<Index>,
}

impl Snapshot {
    /// Why the pod gets no requests. `None` if it may get some.
    pub fn exclusion(&self, pod: &Pod) -> Option<Exclusion> {
        self.addresses().exclusion(pod)
    }

    /// The other pod that has the address of this one.
    pub fn address_holder(&self, pod: &Pod) -> Option<ObjectKey> {
        self.addresses().other_holder(pod).cloned()
    }

    pub(crate) fn pool_members(&self) -> Arc<PoolMembers> {
        self.index.pool_members(&self.pods, &self.inference_pools)
    }

    pub(crate) fn addresses(&self) -> Arc<Addresses> {
        self.index.addresses(&self.pods)
    }

    pub(crate) fn service_slices(&self) -> Arc<ServiceSlices> {
        self.index.service_slices(&self.endpoint_slices)
    }
}

/// An invalid object or document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Location: `pool.yaml document 2 (line 14)`, or `cluster`.
    pub place: String,
    /// `InferencePool llm-d/qwen`; `None` if kind and name cannot be read.
    pub object: Option<String>,
    /// What is wrong, with the path of the field.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{}: {object}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}
