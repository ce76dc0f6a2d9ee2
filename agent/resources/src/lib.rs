//! The Kubernetes objects that all parts of Forebay read, in one store.
//!
//! A provider ([`folder`] or [`cluster`]) fills the [`Store`]. Readers take an immutable [`Snapshot`] and are notified of
//! newer ones by [`Store::subscribe`]. Readers do not depend on the provider.
//!
//! ```
//! # async fn read(folder: &std::path::Path) -> Result<(), forebay_resources::folder::Error> {
//! use forebay_resources::{ObjectKey, Store, folder};
//!
//! let store = Store::new();
//! let _provider = folder::start(folder, store.clone()).await?;
//! let endpoints = store.snapshot().pool_endpoints(&ObjectKey::new("llm-d", "qwen"));
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod cluster;
mod document;
mod endpoints;
pub mod folder;
mod index;
mod key;
mod kind;
mod membership;
mod model_map;
mod object_map;
mod pool_changes;
mod replaced;
mod snapshot;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, experimental::httproutes::HttpRoute, gatewayclasses::GatewayClass,
    gateways::Gateway, referencegrants::ReferenceGrant,
};
pub use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};

pub use self::{
    document::read_manifest,
    endpoints::PoolEndpoint,
    key::ObjectKey,
    kind::Kind,
    membership::{Exclusion, has_ended, pod_ip, serving_ports, takes_requests},
    model_map::{BaseModel, CONFIG_MAP_LABELS, base_model, parse_model_map},
    object_map::ObjectMap,
    pool_changes::PoolChanges,
    snapshot::{Problem, Snapshot},
    source::{Error, Provider, ResourceSource, start},
    store::Store,
    types::*,
};
