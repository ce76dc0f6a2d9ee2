//! Routes attached to listeners.

use forebay_resources::{HttpRoute, ObjectKey, Snapshot};
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use super::listener::Listener;
use super::report::ParentReport;
use super::rule::CompiledRoute;
use crate::condition::{ConditionStatus, reason};
use crate::table::Hostname;

/// Attaches the route to the listeners of `gateway` that accept it; the report says why if there are none.
///
/// `attached` has a list for each of `listeners`.
pub(super) fn attach<'a>(
    snapshot: &Snapshot,
    route: &'a CompiledRoute<'a>,
    gateway: ObjectKey,
    parent: &HttpRouteParentRefs,
    listeners: &[Listener<'_>],
    attached: &mut [Vec<&'a CompiledRoute<'a>>],
) -> ParentReport {
    let (valid, partially_invalid) = route.validity();
    let mut accepted = ConditionStatus::unmet(
        reason::NO_MATCHING_PARENT,
        "the Gateway has no listener with the sectionName and port of the parentRef",
    );
    let mut attaches = false;
    for (listener, attached) in listeners.iter().zip(attached) {
        let is_named = *listener.gateway == gateway
            && parent.section_name.as_ref().is_none_or(|section| *section == listener.spec.name)
            && parent.port.is_none_or(|port| port == listener.spec.port);
        if !is_named || (attaches && !valid.is_true) {
            continue;
        }
        match refusal(snapshot, route, listener) {
            None => {
                attaches = true;
                // Two parentRefs may name the same listener.
                if valid.is_true && !attached.iter().any(|known| known.key == route.key) {
                    attached.push(route);
                }
            }
            // A hostname that does not match is reported before other reasons: that listener allows the route.
            Some((reason, message)) if accepted.reason != reason::NO_MATCHING_LISTENER_HOSTNAME => {
                accepted =
                    ConditionStatus::unmet(reason, format!("listener {}: {message}", listener.spec.name));
            }
            Some(_) => {}
        }
    }
    let accepted = if attaches { valid } else { accepted };
    ParentReport {
        parent: parent.clone(),
        gateway,
        accepted,
        resolved_refs: route.resolved_refs.clone(),
        partially_invalid: partially_invalid.filter(|_| attaches),
    }
}

/// Why the listener does not accept the route: reason and message.
fn refusal(
    snapshot: &Snapshot,
    route: &CompiledRoute<'_>,
    listener: &Listener<'_>,
) -> Option<(&'static str, &'static str)> {
    if !listener.takes_http_routes {
        return Some((reason::NOT_ALLOWED_BY_LISTENERS, "the listener does not allow HTTPRoutes"));
    }
    if let Err(message) = listener.allows_namespace(snapshot, &route.key.namespace) {
        return Some((reason::NOT_ALLOWED_BY_LISTENERS, message));
    }
    if effective_hostnames(&listener.hostname, route.object).is_empty() {
        let message = "no hostname of the route matches the listener's hostname";
        return Some((reason::NO_MATCHING_LISTENER_HOSTNAME, message));
    }
    None
}

/// Intersection of the hostnames of listener and route.
pub(super) fn effective_hostnames(listener: &Hostname, route: &HttpRoute) -> Vec<Hostname> {
    match route.spec.hostnames.as_deref() {
        None | Some([]) => vec![listener.clone()],
        Some(names) => {
            names.iter().filter_map(|name| listener.intersect(&Hostname::parse(Some(name)))).collect()
        }
    }
}
