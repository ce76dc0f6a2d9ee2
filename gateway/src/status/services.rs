//! A Service for each Gateway. It maps the ports of the Gateway to container ports, which all replicas open for this
//! Gateway only.
//!
//! The Services are the only record of the assignment: the replica that holds the Lease assigns container ports, and all
//! replicas open the ports that the Services name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_resources::{ObjectKey, Service, Snapshot};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use forebay_routing::ListenerPort;

const GATEWAY_NAMESPACE: &str = "forebay.dev/gateway-namespace";
const GATEWAY_NAME: &str = "forebay.dev/gateway-name";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "forebay-gateway");
/// Maximum length of a Service name (RFC 1035 label).
const MAX_NAME: usize = 63;
/// Maximum length of a label value. Longer names of Gateways are stored in an annotation.
const MAX_LABEL: usize = 63;

/// Container ports to assign, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: first.parse().ok()?, last: last.parse().ok()? }))
            .filter(|range| 0 < range.first && range.first <= range.last)
            .ok_or_else(|| "expected FIRST-LAST with two port numbers, for example 10000-10999".to_owned())
    }
}

/// The container ports that the Services in `namespace` assign.
pub(crate) fn open_ports(snapshot: &Snapshot, namespace: &str) -> BTreeMap<ListenerPort, u16> {
    let mut ports = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (_, service, gateway) in managed(snapshot, namespace) {
        let gateway = Arc::new(gateway);
        for (port, target) in targets(service) {
            // A container port serves one listener port. The first one keeps it.
            if taken.insert(target) {
                ports.insert(ListenerPort { port, gateway: Some(gateway.clone()) }, target);
            }
        }
    }
    ports
}

/// The Service of a Gateway. One that is being deleted may keep its address for a while, but serves no longer.
pub(super) fn service_of<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
    gateway: &ObjectKey,
) -> Option<&'a Service> {
    let of_gateway = managed(snapshot, namespace).filter(|(_, _, of)| of == gateway);
    let mut existing = of_gateway.filter(|(_, service, _)| service.metadata.deletion_timestamp.is_none());
    existing.next().map(|(_, service, _)| service)
}

/// Whether a pod of the gateway is ready behind the Service.
pub(super) fn has_endpoints(snapshot: &Snapshot, service: &Service) -> bool {
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    let Some((namespace, name)) = namespace.as_deref().zip(name.as_deref()) else { return false };
    let key = ObjectKey::new(namespace, name);
    targets(service).any(|(port, _)| !snapshot.service_endpoints(&key, port).is_empty())
}

/// Services of this controller, with their Gateways.
fn managed<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Service, ObjectKey)> {
    snapshot.services.in_namespace(namespace).filter_map(|(key, service)| {
        let labels = service.metadata.labels.as_ref()?;
        let annotations = service.metadata.annotations.as_ref();
        if labels.get(MANAGED_BY.0)? != MANAGED_BY.1 {
            return None;
        }
        let name = annotations.and_then(|it| it.get(GATEWAY_NAME)).or_else(|| labels.get(GATEWAY_NAME))?;
        let gateway = ObjectKey::new(labels.get(GATEWAY_NAMESPACE)?, name);
        Some((key, &**service, gateway))
    })
}

/// Ports and their container ports.
fn targets(service: &Service) -> impl Iterator<Item = (u16, u16)> + '_ {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten().filter_map(|port| {
        let Some(IntOrString::Int(target)) = port.target_port else { return None };
        Some((u16::try_from(port.port).ok()?, u16::try_from(target).ok()?))
    })
}

/// Options for Services.
#[derive(Clone, Debug)]
pub(super) struct ServiceOptions {
    /// Namespace of the gateway pods.
    pub(super) namespace: String,
    /// Labels of the gateway pods.
    pub(super) selector: BTreeMap<String, String>,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub(super) service_type: String,
    pub(super) range: PortRange,
}

/// Changes after which each Gateway has its Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) apply: BTreeMap<String, Value>,
    pub(super) delete: BTreeSet<String>,
    /// Gateways that cannot get a Service, and why.
    pub(super) refused: BTreeMap<ObjectKey, String>,
}

/// Plans the Services for `wanted`: Gateways with the ports of their listeners. `assigned`: container ports that were
/// assigned and may not be in the snapshot yet. It is updated.
pub(super) fn plan(
    snapshot: &Snapshot,
    options: &ServiceOptions,
    owner: Option<&OwnerReference>,
    wanted: &BTreeMap<ObjectKey, BTreeSet<u16>>,
    assigned: &mut BTreeMap<ListenerPort, u16>,
) -> Plan {
    let mut plan = Plan::default();
    let mut names = names_in_use(snapshot, options, wanted, &mut plan.delete);
    assigned.retain(|port, _| {
        port.gateway.as_ref().and_then(|it| wanted.get(it)).is_some_and(|it| it.contains(&port.port))
    });
    assigned.extend(open_ports(snapshot, &options.namespace));
    let mut taken: BTreeSet<u16> = assigned.values().copied().collect();
    let mut free = options.range.first..=options.range.last;
    for (gateway, ports) in wanted {
        let Some(name) =
            names.get(gateway).cloned().or_else(|| free_name(snapshot, options, gateway, &names))
        else {
            plan.refused.insert(gateway.clone(), "all names for its Service are in use".into());
            continue;
        };
        names.insert(gateway.clone(), name.clone());
        plan.delete.remove(&name);
        let owned = Arc::new(gateway.clone());
        let mut spec_ports = Vec::new();
        for &port in ports {
            let listener = ListenerPort { port, gateway: Some(owned.clone()) };
            let target = assigned.get(&listener).copied().or_else(|| free.find(|port| taken.insert(*port)));
            let Some(target) = target else {
                let reason = "all container ports are in use (--container-ports)";
                plan.refused.insert(gateway.clone(), reason.into());
                continue;
            };
            assigned.insert(listener, target);
            spec_ports.push(json!({
                // A Route of OpenShift selects by this name or by the container port, never by `port`. With the number as
                // the name, its `targetPort` can be the listener's port.
                "name": port.to_string(), "port": port, "targetPort": target, "protocol": "TCP",
            }));
        }
        if spec_ports.is_empty() {
            // A Service must have at least one port.
            if names.remove(gateway).is_some()
                && snapshot.services.contains_key(&ObjectKey::new(&options.namespace, &name))
            {
                plan.delete.insert(name);
            }
            continue;
        }
        let service = manifest(&name, gateway, options, owner, spec_ports);
        if !is_up_to_date(snapshot, options, &name, &service) {
            plan.apply.insert(name, service);
        }
    }
    plan
}

/// The names of the Services that exist for `wanted` Gateways. All other Services of this controller go to `delete`.
fn names_in_use(
    snapshot: &Snapshot,
    options: &ServiceOptions,
    wanted: &BTreeMap<ObjectKey, BTreeSet<u16>>,
    delete: &mut BTreeSet<String>,
) -> BTreeMap<ObjectKey, String> {
    let mut names = BTreeMap::new();
    for (key, _, gateway) in managed(snapshot, &options.namespace) {
        if wanted.contains_key(&gateway) && !names.contains_key(&gateway) {
            names.insert(gateway, key.name.clone());
        } else {
            delete.insert(key.name.clone());
        }
    }
    names
}

fn manifest(
    name: &str,
    gateway: &ObjectKey,
    options: &ServiceOptions,
    owner: Option<&OwnerReference>,
    ports: Vec<Value>,
) -> Value {
    let mut label = gateway.name.clone();
    let mut annotations = json!({});
    if label.len() > MAX_LABEL {
        annotations = json!({ GATEWAY_NAME: gateway.name });
        label = short(&gateway.name, &gateway.name);
    }
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {
                GATEWAY_NAMESPACE: gateway.namespace,
                GATEWAY_NAME: label,
                MANAGED_BY.0: MANAGED_BY.1,
            },
            "annotations": annotations,
        },
        "spec": { "type": options.service_type, "selector": options.selector, "ports": ports },
    });
    if let Some(owner) = owner {
        service["metadata"]["ownerReferences"] = json!([owner]);
    }
    service
}

/// Whether the Service in the snapshot already matches the manifest.
fn is_up_to_date(snapshot: &Snapshot, options: &ServiceOptions, name: &str, wanted: &Value) -> bool {
    let Some(service) = snapshot.services.get(&ObjectKey::new(&options.namespace, name)) else {
        return false;
    };
    let Some(spec) = &service.spec else { return false };
    let ports: Vec<(u16, u16)> = targets(service).collect();
    let wanted_ports: Vec<(u16, u16)> = wanted["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| {
            let number = |name: &str| u16::try_from(port[name].as_u64()?).ok();
            Some((number("port")?, number("targetPort")?))
        })
        .collect();
    let owners = service.metadata.owner_references.as_deref().unwrap_or_default();
    let is_owned = match wanted["metadata"]["ownerReferences"][0]["uid"].as_str() {
        Some(uid) => owners.iter().any(|owner| owner.uid == uid),
        None => true,
    };
    ports == wanted_ports
        && is_owned
        && spec.selector.as_ref() == Some(&options.selector)
        && spec.type_.as_deref().unwrap_or("ClusterIP") == options.service_type
}

/// The preferred name of the Service, or one with a hash if that is in use.
fn free_name(
    snapshot: &Snapshot,
    options: &ServiceOptions,
    gateway: &ObjectKey,
    names: &BTreeMap<ObjectKey, String>,
) -> Option<String> {
    let is_same = gateway.namespace == options.namespace;
    let plain =
        if is_same { gateway.name.clone() } else { format!("{}-{}", gateway.namespace, gateway.name) };
    let hashed = short(&plain, &gateway.to_string());
    let is_free = |name: &String| {
        !names.values().any(|taken| taken == name)
            && !snapshot.services.contains_key(&ObjectKey::new(&options.namespace, name))
    };
    let plain = Some(plain).filter(|name| is_label(name));
    plain.into_iter().chain([hashed]).find(is_free)
}

fn is_label(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A label from `name` with a hash of `whole`.
fn short(name: &str, whole: &str) -> String {
    let mut label: String = name
        .chars()
        .map(|it| if it.is_ascii_lowercase() || it.is_ascii_digit() { it } else { '-' })
        .collect();
    if !label.starts_with(|first: char| first.is_ascii_lowercase()) {
        label.insert_str(0, "g-");
    }
    label.truncate(MAX_NAME - 9);
    format!("{}-{:08x}", label.trim_end_matches('-'), fnv(whole))
}

/// FNV-1a. Names must not change between versions of the program.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
