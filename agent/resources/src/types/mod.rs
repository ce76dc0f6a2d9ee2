//! Kubernetes types that no crate has.

mod agentgateway_policy;
mod inference_model_rewrite;
mod inference_objective;
mod inference_pool;
mod quota;
mod secret;

pub use self::{
    agentgateway_policy::{
        ANY_GROUP, AgentgatewayPolicy, AgentgatewayPolicySpec, AgentgatewayPolicyStatus,
        HeaderTransformation, PolicyAncestorStatus, PolicyTargetRef, PolicyTargetSelector, TrafficPhase,
        TrafficPolicy, Transformation, TransformationSide,
    },
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
    quota::{
        LabelOperator, LabelRequirement, MetadataSelector, ModelPrice, Quota, QuotaCallers, QuotaFields,
        QuotaLimitSpec, QuotaMode, QuotaSpec, QuotaTargetRef, QuotaWindow, StoreFailure, TokenCount,
    },
    secret::Secret,
};
