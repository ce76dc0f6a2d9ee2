//! The Kubernetes objects that every part of Forebay reads, in one store.
//!
//! A provider ([`folder`] or `cluster`) fills the [`Store`]; readers take an immutable
//! [`Snapshot`] and are told by [`Store::subscribe`] when there is a newer one.
//! Nothing above the store can tell which provider feeds it.

mod agentgateway_policy;
pub mod cluster;
mod document;
mod endpoints;
pub mod folder;
mod index;
mod inference_model_rewrite;
mod inference_objective;
mod inference_pool;
mod kind;
mod model_map;
mod object_map;
mod secret;
mod source;
mod store;
#[cfg(test)]
mod tests;

pub use self::source::{Error, Provider, Source, start};
pub use self::{
    agentgateway_policy::{
        AgentgatewayPolicy, AgentgatewayPolicySpec, AgentgatewayPolicyStatus, HeaderTransformation,
        PolicyAncestorStatus, PolicyTargetRef, TrafficPhase, TrafficPolicy, Transformation,
        TransformationSide,
    },
    endpoints::{PoolEndpoint, pod_ip, takes_requests},
    inference_model_rewrite::{
        InferenceModelRewrite, InferenceModelRewriteSpec, InferenceModelRewriteStatus, ModelMatch,
        ModelMatchType, ModelRewriteMatch, ModelRewriteRule, TargetModel,
    },
    inference_objective::{
        InferenceObjective, InferenceObjectiveSpec, InferenceObjectiveStatus, PoolObjectReference,
    },
    inference_pool::{
        AppProtocol, EndpointPickerPort, EndpointPickerRef, FailureMode, InferencePool, InferencePoolSpec,
        InferencePoolStatus, LabelSelector, ParentReference, ParentStatus, TargetPort,
    },
    kind::Kind,
    model_map::{BaseModel, CONFIG_MAP_LABELS, base_model, parse_model_map},
    object_map::ObjectMap,
    secret::Secret,
    store::{ObjectKey, Problem, Snapshot, Store},
};
pub use gateway_api::{
    experimental::httproutes::HttpRoute, gatewayclasses::GatewayClass, gateways::Gateway,
    referencegrants::ReferenceGrant,
};
pub use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
