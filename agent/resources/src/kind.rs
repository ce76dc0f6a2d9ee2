//! Kinds of objects, and their API names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, experimental::httproutes::HttpRoute, gatewayclasses::GatewayClass,
    gateways::Gateway, referencegrants::ReferenceGrant,
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    object_map::ObjectMap,
    snapshot::Snapshot,
    types::{AgentgatewayPolicy, InferenceModelRewrite, InferenceObjective, InferencePool, Quota, Secret},
};

/// The kinds of objects in a [`Snapshot`].
#[allow(missing_docs, reason = "each is the Kubernetes kind of the same name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GatewayClass,
    Gateway,
    HttpRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    InferencePool,
    InferenceObjective,
    InferenceModelRewrite,
    AgentgatewayPolicy,
    Quota,
    Pod,
    Service,
    EndpointSlice,
    ConfigMap,
    Secret,
    Namespace,
}

/// API names of a kind.
#[derive(Debug)]
pub(super) struct Names {
    /// `HTTPRoute`
    pub(super) kind: &'static str,
    /// `httproutes`
    pub(super) plural: &'static str,
    pub(super) is_namespaced: bool,
    /// API groups with the same schema, the newest first.
    pub(super) groups: &'static [&'static str],
    /// API versions with the same schema, the preferred one first.
    pub(super) versions: &'static [&'static str],
}

const CORE: &[&str] = &[""];
const GATEWAY_API: &[&str] = &["gateway.networking.k8s.io"];
const LLM_D: &[&str] = &["llm-d.ai", "inference.networking.x-k8s.io"];

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::InferencePool,
        Self::InferenceObjective,
        Self::InferenceModelRewrite,
        Self::AgentgatewayPolicy,
        Self::Quota,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::ConfigMap,
        Self::Secret,
        Self::Namespace,
    ];

    pub(super) fn names(self) -> Names {
        let (kind, plural, is_namespaced, groups, versions): (_, _, _, _, &[&str]) = match self {
            Self::GatewayClass => ("GatewayClass", "gatewayclasses", false, GATEWAY_API, &["v1", "v1beta1"]),
            Self::Gateway => ("Gateway", "gateways", true, GATEWAY_API, &["v1", "v1beta1"]),
            Self::HttpRoute => ("HTTPRoute", "httproutes", true, GATEWAY_API, &["v1", "v1beta1"]),
            Self::ReferenceGrant => {
                ("ReferenceGrant", "referencegrants", true, GATEWAY_API, &["v1", "v1beta1"])
            }
            Self::BackendTlsPolicy => ("BackendTLSPolicy", "backendtlspolicies", true, GATEWAY_API, &["v1"]),
            Self::InferencePool => {
                ("InferencePool", "inferencepools", true, &["inference.networking.k8s.io"][..], &["v1"])
            }
            Self::InferenceObjective => {
                ("InferenceObjective", "inferenceobjectives", true, LLM_D, &["v1alpha2"])
            }
            Self::InferenceModelRewrite => {
                ("InferenceModelRewrite", "inferencemodelrewrites", true, LLM_D, &["v1alpha2"])
            }
            Self::AgentgatewayPolicy => {
                ("AgentgatewayPolicy", "agentgatewaypolicies", true, &["agentgateway.dev"], &["v1alpha1"])
            }
            Self::Quota => ("Quota", "quotas", true, &["forebay.dev"], &["v1alpha1"]),
            Self::Pod => ("Pod", "pods", true, CORE, &["v1"]),
            Self::Service => ("Service", "services", true, CORE, &["v1"]),
            Self::EndpointSlice => ("EndpointSlice", "endpointslices", true, &["discovery.k8s.io"], &["v1"]),
            Self::ConfigMap => ("ConfigMap", "configmaps", true, CORE, &["v1"]),
            Self::Secret => ("Secret", "secrets", true, CORE, &["v1"]),
            Self::Namespace => ("Namespace", "namespaces", false, CORE, &["v1"]),
        };
        Names { kind, plural, is_namespaced, groups, versions }
    }

    /// `HTTPRoute`
    pub fn name(self) -> &'static str {
        self.names().kind
    }

    /// `gateway.networking.k8s.io/v1`, the preferred one.
    pub fn api_version(self) -> String {
        let names = self.names();
        match (names.groups[0], names.versions[0]) {
            ("", version) => version.to_owned(),
            (group, version) => format!("{group}/{version}"),
        }
    }

    /// The kind with this group and kind name.
    pub(super) fn find(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| {
            let names = it.names();
            names.kind == kind && names.groups.contains(&group)
        })
    }

    /// Calls the visitor with the kind's type.
    pub(super) fn visit<V: Visitor>(self, visitor: V) -> V::Output {
        match self {
            Self::GatewayClass => visitor.visit::<GatewayClass>(),
            Self::Gateway => visitor.visit::<Gateway>(),
            Self::HttpRoute => visitor.visit::<HttpRoute>(),
            Self::ReferenceGrant => visitor.visit::<ReferenceGrant>(),
            Self::BackendTlsPolicy => visitor.visit::<BackendTlsPolicy>(),
            Self::InferencePool => visitor.visit::<InferencePool>(),
            Self::InferenceObjective => visitor.visit::<InferenceObjective>(),
            Self::InferenceModelRewrite => visitor.visit::<InferenceModelRewrite>(),
            Self::AgentgatewayPolicy => visitor.visit::<AgentgatewayPolicy>(),
            Self::Quota => visitor.visit::<Quota>(),
            Self::Pod => visitor.visit::<Pod>(),
            Self::Service => visitor.visit::<Service>(),
            Self::EndpointSlice => visitor.visit::<EndpointSlice>(),
            Self::ConfigMap => visitor.visit::<ConfigMap>(),
            Self::Secret => visitor.visit::<Secret>(),
            Self::Namespace => visitor.visit::<Namespace>(),
        }
    }
}

/// A function that is generic over the type of a [`Kind`].
pub(super) trait Visitor {
    type Output;

    fn visit<T: Object>(self) -> Self::Output;
}

/// A type of objects in a [`Snapshot`].
pub(super) trait Object: DeserializeOwned + PartialEq + Send + Sync + 'static {
    const KIND: Kind;

    fn metadata(&self) -> &ObjectMeta;

    fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self>;

    /// Rules of the CRD beyond the types, for providers without an API server.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// The error names the field.
    fn parse(value: &Value) -> Result<Self, String> {
        // Tracking the path is slow, so it is done after a failure only.
        let object = Self::deserialize(value).map_err(|plain| {
            match serde_path_to_error::deserialize::<_, Self>(value) {
                Err(error) if error.path().iter().next().is_some() => {
                    format!("{}: {}", error.path(), error.inner())
                }
                _ => plain.to_string(),
            }
        })?;
        object.validate()?;
        Ok(object)
    }
}

macro_rules! objects {
    ($($type:ident in $map:ident),* $(,)?) => {$(
        impl Object for $type {
            const KIND: Kind = Kind::$type;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self> {
                &mut snapshot.$map
            }
        }
    )*};
}

objects! {
    GatewayClass in gateway_classes,
    Gateway in gateways,
    HttpRoute in http_routes,
    ReferenceGrant in reference_grants,
    BackendTlsPolicy in backend_tls_policies,
    InferenceObjective in inference_objectives,
    AgentgatewayPolicy in agentgateway_policies,
    Pod in pods,
    Service in services,
    EndpointSlice in endpoint_slices,
    ConfigMap in config_maps,
    Namespace in namespaces,
}

impl Object for InferencePool {
    const KIND: Kind = Kind::InferencePool;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self> {
        &mut snapshot.inference_pools
    }

    fn validate(&self) -> Result<(), String> {
        self.spec.validate()
    }
}

impl Object for InferenceModelRewrite {
    const KIND: Kind = Kind::InferenceModelRewrite;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self> {
        &mut snapshot.inference_model_rewrites
    }

    fn validate(&self) -> Result<(), String> {
        self.spec.validate()
    }
}

impl Object for Quota {
    const KIND: Kind = Kind::Quota;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self> {
        &mut snapshot.quotas
    }

    /// Without the status: one that cannot be read must not make the quota invalid, which would open what it limits.
    fn parse(value: &Value) -> Result<Self, String> {
        let mut value = value.clone();
        if let Value::Object(members) = &mut value {
            members.remove("status");
            members.entry("spec").or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        serde_path_to_error::deserialize(value)
            .map_err(|error| format!("{}: {}", error.path(), error.inner()))
    }
}

impl Object for Secret {
    const KIND: Kind = Kind::Secret;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn of(snapshot: &mut Snapshot) -> &mut ObjectMap<Self> {
        &mut snapshot.secrets
    }

    /// The error names the path, never the value.
    fn parse(value: &Value) -> Result<Self, String> {
        serde_path_to_error::deserialize(value).map_err(|error| format!("{}: invalid value", error.path()))
    }
}
