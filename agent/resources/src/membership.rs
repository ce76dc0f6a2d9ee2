//! Which pods may get requests. Agent, pickers and gateway ask here, so that they agree.

use std::{cmp::Reverse, collections::HashMap, fmt, net::IpAddr};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};

use crate::{key::ObjectKey, object_map::ObjectMap, types::InferencePool};

/// Label with the part of a request that a pod computes (llm-d).
const ROLE: &str = "llm-d.ai/role";
/// Values of [`ROLE`] of pods that do not generate tokens.
const ROLES_WITHOUT_DECODE: [&str; 3] = ["prefill", "encode", "encode-prefill"];
/// Annotations with the target ports of a pool on which a pod serves, separated by commas. The first one found counts.
const ACTIVE_PORTS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];

/// Why a pod that a pool selects gets no requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Its phase is Succeeded or Failed. Another pod may have its address.
    Ended,
    /// It is being deleted.
    Deleted,
    /// Its condition Ready is not True.
    NotReady,
    /// It has no address yet.
    NoAddress,
    /// Another pod has its address: see [`Claim`].
    AddressTaken {
        /// The other pod.
        holder: ObjectKey,
    },
    /// It computes only a part of each request.
    Role {
        /// Value of the label `llm-d.ai/role`.
        role: String,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the Pod has ended"),
            Self::Deleted => f.write_str("the Pod is being deleted"),
            Self::NotReady => f.write_str("the Pod is not Ready"),
            Self::NoAddress => f.write_str("the Pod has no address yet"),
            Self::AddressTaken { holder } => {
                write!(f, "the Pod {holder}, which started later or at the same time, has its address")
            }
            Self::Role { role } => write!(f, "the label {ROLE} is {role}: the Pod generates no tokens"),
        }
    }
}

/// Whether the pod is Ready, has not ended and is not being deleted.
pub fn takes_requests(pod: &Pod) -> bool {
    is_ready(pod) && !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether all containers of the pod have ended for good. Such a pod keeps its address in its status.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// The pod's primary address; `None` before it has one.
pub fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// The target ports of the pool on which the pod serves: all, or those of its annotation.
pub fn serving_ports<'a>(pool: &'a InferencePool, pod: &Pod) -> impl Iterator<Item = u16> + use<'a> {
    let annotations = pod.metadata.annotations.as_ref();
    let active = ACTIVE_PORTS.iter().find_map(|name| annotations?.get(*name));
    let active: Option<Vec<u16>> =
        active.map(|ports| ports.split(',').filter_map(|port| port.trim().parse().ok()).collect());
    let ports = pool.spec.target_ports.iter().map(|port| port.number.get());
    ports.filter(move |port| active.as_ref().is_none_or(|active| active.contains(port)))
}

/// The pod of each address, of those that have not ended.
pub(crate) struct Addresses {
    pods: ObjectMap<Pod>,
    holders: HashMap<IpAddr, ObjectKey>,
}

/// A pod's claim to its address. The greatest claim counts.
///
/// An address is given to another pod only after the first one has ended, so the pod that started last has it. Times of the
/// API have seconds. Of pods that started in the same second, one that takes requests counts, so that a stale status that is
/// not Ready excludes no working pod. Then the first name counts: which pod has the address is not known, but all programs
/// must send to the same one, and from one pool only.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    started: &'a Time,
    takes_requests: bool,
    key: Reverse<&'a ObjectKey>,
}

impl Addresses {
    pub(crate) fn new(pods: &ObjectMap<Pod>) -> Self {
        let mut claims = HashMap::<IpAddr, Claim<'_>>::new();
        for (key, pod) in pods {
            let Some(ip) = pod_ip(pod).filter(|_| !has_ended(pod)) else { continue };
            let Some(started) = started_alone(pod) else { continue };
            let claim = Claim { started, takes_requests: takes_requests(pod), key: Reverse(key) };
            if claims.get(&ip).is_none_or(|before| claim > *before) {
                claims.insert(ip, claim);
            }
        }
        let holders = claims.into_iter().map(|(ip, claim)| (ip, claim.key.0.clone())).collect();
        Self { pods: pods.clone(), holders }
    }

    pub(crate) fn is_of(&self, pods: &ObjectMap<Pod>) -> bool {
        self.pods.is_same(pods)
    }

    /// See `Snapshot::exclusion`.
    pub(crate) fn exclusion(&self, pod: &Pod) -> Option<Exclusion> {
        if has_ended(pod) {
            return Some(Exclusion::Ended);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Some(Exclusion::Deleted);
        }
        if !is_ready(pod) {
            return Some(Exclusion::NotReady);
        }
        if pod_ip(pod).is_none() {
            return Some(Exclusion::NoAddress);
        }
        if let Some(holder) = self.other_holder(pod) {
            return Some(Exclusion::AddressTaken { holder: holder.clone() });
        }
        let role = pod.metadata.labels.as_ref()?.get(ROLE)?;
        let is_partial = ROLES_WITHOUT_DECODE.contains(&role.as_str());
        is_partial.then(|| Exclusion::Role { role: role.clone() })
    }

    /// The other pod that has the address of this one.
    pub(crate) fn other_holder(&self, pod: &Pod) -> Option<&ObjectKey> {
        started_alone(pod)?;
        let holder = self.holders.get(&pod_ip(pod)?)?;
        let metadata = &pod.metadata;
        let is_this = metadata.name.as_ref() == Some(&holder.name)
            && metadata.namespace.as_ref() == Some(&holder.namespace);
        (!is_this).then_some(holder)
    }
}

/// When a pod started whose address no other pod may have. Manifests of a folder may have no time, so nothing is known about
/// their order. The kubelet sets the start before the address; a pod may wait for a node long after its creation.
fn started_alone(pod: &Pod) -> Option<&Time> {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let shares_address = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    started.or(pod.metadata.creation_timestamp.as_ref()).filter(|_| !shares_address)
}
