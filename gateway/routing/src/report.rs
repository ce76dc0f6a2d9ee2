//! What became of the resources, said in the specification's own words.
//!
//! It is made together with the [`RouteTable`](super::RouteTable), so that a status can never say
//! something else than what the traffic does.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::ObjectKey;
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use super::ListenerPort;

/// Reasons of conditions, as Gateway API and its Inference Extension spell them.
pub mod reason {
    pub const ACCEPTED: &str = "Accepted";
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    pub const NO_CONFLICTS: &str = "NoConflicts";

    // Listeners.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
    pub const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";

    // HTTPRoutes at one parent.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";

    // References, of listeners and of routes.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub const INVALID_KIND: &str = "InvalidKind";
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";

    // AgentgatewayPolicies at one ancestor (Gateway API, PolicyConditionReason).
    pub const INVALID: &str = "Invalid";

    // InferenceModelRewrites, of which the API knows Accepted alone; as policies say it (PolicyConditionReason).
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";

    // InferencePools at one parent.
    pub const HTTP_ROUTE_NOT_ACCEPTED: &str = "HTTPRouteNotAccepted";
    pub const INVALID_EXTENSION_REF: &str = "InvalidExtensionRef";
}

/// A condition: whether it holds, the specification's reason, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub holds: bool,
    pub reason: &'static str,
    /// Empty where the reason says it all.
    pub message: String,
}

impl Verdict {
    pub fn yes(reason: &'static str) -> Self {
        Self { holds: true, reason, message: String::new() }
    }

    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

/// Everything that statuses are written from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The Gateways of the served class; their listeners in the order of `spec.listeners`.
    pub gateways: BTreeMap<ObjectKey, Vec<ListenerReport>>,
    /// The HTTPRoutes that name one of these Gateways; those of their `spec.parentRefs` that do, in order.
    pub routes: BTreeMap<ObjectKey, Vec<ParentReport>>,
    /// The InferencePools that HTTPRoutes under these Gateways refer to. A pool that is not there any more
    /// has no parent of ours.
    pub pools: BTreeMap<ObjectKey, PoolReport>,
    /// The AgentgatewayPolicies that target served listeners: the Gateways, with the condition `Accepted` there.
    pub policies: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Verdict>>,
    /// The InferenceModelRewrites of these pools, and those whose pool is not there.
    pub rewrites: BTreeMap<ObjectKey, Verdict>,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    pub name: String,
    /// What must be open for it to be programmed; nothing if it is not served.
    pub port: Option<ListenerPort>,
    /// `status.listeners[].supportedKinds`, all of group `gateway.networking.k8s.io`.
    pub supported_kinds: Vec<&'static str>,
    /// HTTPRoutes that attached, whether or not the listener serves them.
    pub attached_routes: i32,
    pub accepted: Verdict,
    /// Here a condition that holds is the bad one.
    pub conflicted: Verdict,
    pub resolved_refs: Verdict,
}

/// An HTTPRoute at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentReport {
    /// As the route has it.
    pub parent: HttpRouteParentRefs,
    pub gateway: ObjectKey,
    pub accepted: Verdict,
    pub resolved_refs: Verdict,
    /// Some rules are served and some cannot be: the condition `PartiallyInvalid`, which holds then.
    pub partially_invalid: Option<Verdict>,
}

// Parent references hold no floating point numbers.
impl Eq for ParentReport {}

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// The Gateways with an HTTPRoute that refers to the pool, with the condition `Accepted` there.
    pub parents: BTreeMap<ObjectKey, Verdict>,
    /// The same at all of them.
    pub resolved_refs: Verdict,
}

impl Report {
    /// One line for everything that does not do what its author wanted.
    pub fn problems(&self) -> BTreeSet<String> {
        let mut problems = BTreeSet::new();
        for (gateway, listeners) in &self.gateways {
            for listener in listeners {
                let bad = [
                    (!listener.accepted.holds).then_some(&listener.accepted),
                    (!listener.resolved_refs.holds).then_some(&listener.resolved_refs),
                    listener.conflicted.holds.then_some(&listener.conflicted),
                ];
                problems.extend(bad.into_iter().flatten().map(|verdict| {
                    format!(
                        "Gateway {gateway}: listener {}: {}: {}",
                        listener.name, verdict.reason, verdict.message
                    )
                }));
            }
        }
        for (route, parents) in &self.routes {
            for parent in parents {
                let bad = [
                    (!parent.accepted.holds).then_some(&parent.accepted),
                    (!parent.resolved_refs.holds).then_some(&parent.resolved_refs),
                    parent.partially_invalid.as_ref(),
                ];
                problems.extend(bad.into_iter().flatten().map(|verdict| {
                    format!(
                        "HTTPRoute {route}: at Gateway {}: {}: {}",
                        parent.gateway, verdict.reason, verdict.message
                    )
                }));
            }
        }
        for (pool, report) in self.pools.iter().filter(|(_, report)| !report.resolved_refs.holds) {
            let verdict = &report.resolved_refs;
            problems.insert(format!("InferencePool {pool}: {}: {}", verdict.reason, verdict.message));
        }
        for (rewrite, verdict) in self.rewrites.iter().filter(|(_, verdict)| !verdict.holds) {
            problems
                .insert(format!("InferenceModelRewrite {rewrite}: {}: {}", verdict.reason, verdict.message));
        }
        problems
    }
}
