//! What became of the resources, said in the specification's own words.
//!
//! It is made together with the [`RouteTable`](super::RouteTable), so that a status can never say
//! something else than what the traffic does.

use std::collections::{BTreeMap, BTreeSet};

use forebay_agent::resources::ObjectKey;
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use super::ListenerPort;

/// Reasons of conditions, as Gateway API and its Inference Extension spell them.
pub(crate) mod reason {
    pub(crate) const ACCEPTED: &str = "Accepted";
    pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
    pub(crate) const NO_CONFLICTS: &str = "NoConflicts";

    // Listeners.
    pub(crate) const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    pub(crate) const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    pub(crate) const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub(crate) const PORT_UNAVAILABLE: &str = "PortUnavailable";
    pub(crate) const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    pub(crate) const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";

    // HTTPRoutes at one parent.
    pub(crate) const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub(crate) const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    pub(crate) const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    pub(crate) const UNSUPPORTED_VALUE: &str = "UnsupportedValue";

    // References, of listeners and of routes.
    pub(crate) const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub(crate) const INVALID_KIND: &str = "InvalidKind";
    pub(crate) const BACKEND_NOT_FOUND: &str = "BackendNotFound";

    // AgentgatewayPolicies at one ancestor (Gateway API, PolicyConditionReason).
    pub(crate) const INVALID: &str = "Invalid";

    // InferenceModelRewrites, of which the API knows Accepted alone; as policies say it (PolicyConditionReason).
    pub(crate) const TARGET_NOT_FOUND: &str = "TargetNotFound";

    // InferencePools at one parent.
    pub(crate) const HTTP_ROUTE_NOT_ACCEPTED: &str = "HTTPRouteNotAccepted";
    pub(crate) const INVALID_EXTENSION_REF: &str = "InvalidExtensionRef";
}

/// A condition: whether it holds, the specification's reason, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    /// Empty where the reason says it all.
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(reason: &'static str) -> Self {
        Self { holds: true, reason, message: String::new() }
    }

    pub(crate) fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

/// Everything that statuses are written from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The Gateways of the served class; their listeners in the order of `spec.listeners`.
    pub(crate) gateways: BTreeMap<ObjectKey, Vec<ListenerReport>>,
    /// The HTTPRoutes that name one of these Gateways; those of their `spec.parentRefs` that do, in order.
    pub(crate) routes: BTreeMap<ObjectKey, Vec<ParentReport>>,
    /// The InferencePools that HTTPRoutes under these Gateways refer to. A pool that is not there any more
    /// has no parent of ours.
    pub(crate) pools: BTreeMap<ObjectKey, PoolReport>,
    /// The AgentgatewayPolicies that target served listeners: the Gateways, with the condition `Accepted` there.
    pub(crate) policies: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Verdict>>,
    /// The InferenceModelRewrites of these pools, and those whose pool is not there.
    pub(crate) rewrites: BTreeMap<ObjectKey, Verdict>,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerReport {
    pub(crate) name: String,
    /// What must be open for it to be programmed; nothing if it is not served.
    pub(crate) port: Option<ListenerPort>,
    /// `status.listeners[].supportedKinds`, all of group `gateway.networking.k8s.io`.
    pub(crate) supported_kinds: Vec<&'static str>,
    /// HTTPRoutes that attached, whether or not the listener serves them.
    pub(crate) attached_routes: i32,
    pub(crate) accepted: Verdict,
    /// Here a condition that holds is the bad one.
    pub(crate) conflicted: Verdict,
    pub(crate) resolved_refs: Verdict,
}

/// An HTTPRoute at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParentReport {
    /// As the route has it.
    pub(crate) parent: HttpRouteParentRefs,
    pub(crate) gateway: ObjectKey,
    pub(crate) accepted: Verdict,
    pub(crate) resolved_refs: Verdict,
    /// Some rules are served and some cannot be: the condition `PartiallyInvalid`, which holds then.
    pub(crate) partially_invalid: Option<Verdict>,
}

// Parent references hold no floating point numbers.
impl Eq for ParentReport {}

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolReport {
    /// The Gateways with an HTTPRoute that refers to the pool, with the condition `Accepted` there.
    pub(crate) parents: BTreeMap<ObjectKey, Verdict>,
    /// The same at all of them.
    pub(crate) resolved_refs: Verdict,
}

impl Report {
    /// One line for everything that does not do what its author wanted.
    pub(crate) fn problems(&self) -> BTreeSet<String> {
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
