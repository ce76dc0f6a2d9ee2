//! Trusted listeners: their clients are an internal mesh, or another gateway in front of this one.

use std::collections::BTreeSet;

use forebay_resources::{Gateway, ObjectKey, Snapshot};

use super::listener::Listener;

/// Gateway annotation: names of trusted listeners, comma-separated.
const TRUSTED_LISTENERS: &str = "forebay.dev/trusted-listeners";

/// Whether each of `listeners` is trusted.
///
/// The client chooses the listener of a port by the Host header. A listener that shares its port with an untrusted
/// one is therefore reachable by untrusted clients, and is not trusted.
pub(super) fn trusted(
    snapshot: &Snapshot,
    gateways: &BTreeSet<&ObjectKey>,
    listeners: &[Listener<'_>],
    problems: &mut BTreeSet<String>,
) -> Vec<bool> {
    let mut named = BTreeSet::new();
    for (key, gateway) in snapshot.gateways.iter().filter(|(key, _)| gateways.contains(key)) {
        for name in names(gateway) {
            if !gateway.spec.listeners.iter().any(|listener| listener.name == name) {
                problems
                    .insert(format!("Gateway {key}: {TRUSTED_LISTENERS}: listener {name:?} does not exist"));
            }
            named.insert((key, name));
        }
    }
    let is_named = |listener: &Listener<'_>| named.contains(&(listener.gateway, listener.spec.name.as_str()));
    let trusted = listeners.iter().map(|listener| {
        if !is_named(listener) {
            return false;
        }
        let untrusted = listeners
            .iter()
            .find(|other| other.is_served() && other.port == listener.port && !is_named(other));
        if let Some(untrusted) = untrusted {
            problems.insert(format!(
                "Gateway {}: {TRUSTED_LISTENERS}: listener {} is not trusted, because it shares its port with \
                 listener {} of Gateway {}; give it a port of its own",
                listener.gateway, listener.spec.name, untrusted.spec.name, untrusted.gateway
            ));
        }
        untrusted.is_none()
    });
    trusted.collect()
}

fn names(gateway: &Gateway) -> impl Iterator<Item = &str> {
    let infrastructure = gateway.spec.infrastructure.iter().filter_map(|it| it.annotations.as_ref());
    let all = gateway.metadata.annotations.iter().chain(infrastructure);
    let lists = all.filter_map(|annotations| annotations.get(TRUSTED_LISTENERS));
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty())
}
