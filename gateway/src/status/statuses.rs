//! Compares all statuses with those in the cluster.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::cluster::Statuses;
use forebay_resources::{Kind, ObjectKey, Snapshot};
use forebay_routing::status::{
    Reach, class_status, gateway_status, has_ours, policy_status, pool_status, quota_status, rewrite_status,
    route_status,
};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::applied::Applied;
use super::events::{Transition, transitions};
use super::services::{has_endpoints, service_of};

/// A status that must be written.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
    /// Version of the object that the status was computed from.
    pub(super) resource_version: String,
    /// The fields to write.
    pub(super) status: Value,
    /// Conditions that change.
    pub(super) transitions: Vec<Transition>,
    /// `metadata.uid`, for Events.
    uid: Option<String>,
}

impl Change {
    /// The object, for Events.
    pub(super) fn reference(&self) -> ObjectReference {
        let namespace = Some(self.key.namespace.clone()).filter(|namespace| !namespace.is_empty());
        ObjectReference {
            api_version: Some(self.kind.api_version()),
            kind: Some(self.kind.name().into()),
            namespace,
            name: Some(self.key.name.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        }
    }
}

/// Versions whose status was written, until the watch delivers newer versions.
#[derive(Debug, Default)]
pub(super) struct Written(BTreeMap<(Kind, ObjectKey), String>);

impl Written {
    pub(super) fn add(&mut self, change: Change) {
        self.0.insert((change.kind, change.key), change.resource_version);
    }

    /// Removes objects whose newer version has arrived.
    fn retain(&mut self, statuses: &Statuses) {
        self.0.retain(|(kind, key), version| {
            statuses.get(*kind, key).is_some_and(|status| status.resource_version == *version)
        });
    }

    fn is_pending(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.0.contains_key(&(kind, key.clone()))
    }
}

/// The statuses that differ from those in the cluster. `refused`: Gateways that cannot get a Service, and why.
pub(super) fn changes(
    applied: &Applied,
    statuses: &Statuses,
    namespace: &str,
    refused: &BTreeMap<ObjectKey, String>,
    written: &mut Written,
) -> Vec<Change> {
    written.retain(statuses);
    let mut pass = Pass { statuses, written, changes: Vec::new() };
    let snapshot: &Snapshot = &applied.snapshot;
    for (key, class) in &snapshot.gateway_classes {
        pass.compare(Kind::GatewayClass, key, &class.metadata, |current| class_status(class, current));
    }
    for (key, listeners) in &applied.report.gateways {
        let Some(gateway) = snapshot.gateways.get(key) else { continue };
        let is_open = |listener: &forebay_routing::ListenerReport| {
            listener.port.as_ref().is_some_and(|port| applied.addresses.contains_key(port))
        };
        let service = service_of(snapshot, namespace, key);
        let reach = Reach {
            service,
            has_endpoints: service.is_some_and(|service| has_endpoints(snapshot, service)),
            refused: refused.get(key).map(String::as_str),
            is_open: &is_open,
        };
        pass.compare(Kind::Gateway, key, &gateway.metadata, |current| {
            Some(gateway_status(gateway.metadata.generation, listeners, &reach, current))
        });
    }
    for key in pass.keys(Kind::HttpRoute, applied.report.routes.keys()) {
        let Some(route) = snapshot.http_routes.get(&key) else { continue };
        let parents = applied.report.routes.get(&key).map_or(&[][..], Vec::as_slice);
        pass.compare(Kind::HttpRoute, &key, &route.metadata, |current| {
            Some(route_status(route.metadata.generation, parents, current))
        });
    }
    for key in pass.keys(Kind::InferencePool, applied.report.pools.keys()) {
        let Some(pool) = snapshot.inference_pools.get(&key) else { continue };
        let report = applied.report.pools.get(&key);
        pass.compare(Kind::InferencePool, &key, &pool.metadata, |current| {
            Some(pool_status(pool.metadata.generation, report, current))
        });
    }
    compare_policies(&mut pass, applied);
    for (key, rewrite) in &snapshot.inference_model_rewrites {
        let state = applied.report.rewrites.get(key);
        pass.compare(Kind::InferenceModelRewrite, key, &rewrite.metadata, |current| {
            rewrite_status(rewrite.metadata.generation, state, current)
        });
    }
    pass.changes
}

/// AgentgatewayPolicies and Quotas.
fn compare_policies(pass: &mut Pass<'_>, applied: &Applied) {
    let (snapshot, report) = (&applied.snapshot, &applied.report);
    for key in pass.keys(Kind::AgentgatewayPolicy, report.policies.keys()) {
        let Some(policy) = snapshot.agentgateway_policies.get(&key) else { continue };
        pass.compare(Kind::AgentgatewayPolicy, &key, &policy.metadata, |current| {
            Some(policy_status(policy.metadata.generation, report.policies.get(&key), current))
        });
    }
    for key in pass.keys(Kind::Quota, report.quotas.keys().chain(report.missing_targets.keys())) {
        let Some(quota) = snapshot.quotas.get(&key) else { continue };
        pass.compare(Kind::Quota, &key, &quota.metadata, |current| {
            let counting = applied.counting;
            Some(quota_status(quota.metadata.generation, &report.quota(&key), counting, current))
        });
    }
}

struct Pass<'a> {
    statuses: &'a Statuses,
    written: &'a Written,
    changes: Vec<Change>,
}

impl Pass<'_> {
    /// The objects of the report, and those that still have an entry of this controller.
    fn keys<'k>(&self, kind: Kind, reported: impl Iterator<Item = &'k ObjectKey>) -> BTreeSet<ObjectKey> {
        let of_kind = self.statuses.of_kind(kind);
        let entered = of_kind.filter(|(_, status)| has_ours(&status.status)).map(|(key, _)| key);
        reported.cloned().chain(entered.cloned()).collect()
    }

    fn compare(
        &mut self,
        kind: Kind,
        key: &ObjectKey,
        metadata: &ObjectMeta,
        status: impl FnOnce(&Value) -> Option<Value>,
    ) {
        // A status that was just written is compared again when the watch delivers it.
        let Some(current) = self.statuses.get(kind, key).filter(|_| !self.written.is_pending(kind, key))
        else {
            return;
        };
        let Some(status) = status(&current.status) else { return };
        let is_unchanged = status.as_object().is_some_and(|fields| {
            fields.iter().all(|(name, value)| is_same(value, current.status.get(name)))
        });
        if !is_unchanged {
            self.changes.push(Change {
                kind,
                key: key.clone(),
                resource_version: current.resource_version.clone(),
                transitions: transitions(&current.status, &status),
                status,
                uid: metadata.uid.clone(),
            });
        }
    }
}

/// Whether two fields are equal. A missing list equals an empty list.
fn is_same(wanted: &Value, current: Option<&Value>) -> bool {
    match current {
        Some(current) => wanted == current,
        None => wanted.as_array().is_some_and(Vec::is_empty),
    }
}
