//! InferencePools: their pods, their ports, their picker, and routes to them.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{
    EndpointPickerRef, FailureMode, InferencePool, Kind, ObjectKey, Pod, takes_requests,
};

use super::{
    finding::{Finding, Level, Place, or_ok},
    installation::Installation,
    nearest::nearest,
    references::backends,
};

/// Labels that are shown as being like those asked for.
const MAX_SHOWN: usize = 3;

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows(Kind::InferencePool, None) {
        return Vec::new();
    }
    let pools = &installation.snapshot.inference_pools;
    if pools.is_empty() {
        let fix = "helm upgrade --install NAME charts/inferencepool --set inferencePool.modelServers.matchLabels.app=NAME";
        return vec![Finding::warning(Place::all("InferencePools"), "there is none", fix)];
    }
    pools.iter().flat_map(|(key, pool)| judge(installation, key, pool)).collect()
}

fn judge(installation: &Installation, key: &ObjectKey, pool: &InferencePool) -> Vec<Finding> {
    let knows = |kind| installation.knows(kind, Some(&key.namespace));
    let mut findings = Vec::new();
    let (mut members, mut ready) = (0, 0);
    if knows(Kind::Pod) {
        let pods: Vec<&Pod> = installation.pool_pods(key).map(|(_, pod)| pod).collect();
        members = pods.len();
        ready = pods.iter().filter(|pod| takes_requests(pod)).count();
        findings.extend(members_of(installation, key, pool, members, ready));
        findings.extend(ports(key, pool, &pods));
    }
    if knows(Kind::Service) && knows(Kind::EndpointSlice) {
        let reference = pool.spec.endpoint_picker_ref.as_ref();
        findings.extend(reference.and_then(|reference| picker(installation, key, reference)));
    }
    if installation.knows(Kind::HttpRoute, None) && !is_referred_to(installation, key) {
        let fix = "apply an HTTPRoute with it in backendRefs (helm upgrade … charts/inferencepool --set httpRoute.enabled=true)";
        findings.push(Finding::warning(Place::new("InferencePool", key), "no HTTPRoute refers to it", fix));
    }
    if !knows(Kind::Pod) {
        return findings;
    }
    or_ok(findings, || {
        Finding::ok(Place::new("InferencePool", key), format!("{ready} of {members} pods are Ready"))
    })
}

fn is_referred_to(installation: &Installation, pool: &ObjectKey) -> bool {
    let mut routes = installation.snapshot.http_routes.iter();
    routes.any(|(key, route)| backends(key, route).any(|backend| backend.is_pool() && backend.key == *pool))
}

fn members_of(
    installation: &Installation,
    key: &ObjectKey,
    pool: &InferencePool,
    members: usize,
    ready: usize,
) -> Option<Finding> {
    let place = Place::new("InferencePool", key);
    let wanted = &pool.spec.selector.match_labels;
    let selector = show(wanted);
    if members == 0 {
        let (like, fix) = near_misses(installation, key, wanted);
        let what = format!("selects no Pod: it asks for {selector} in namespace {}; {like}", key.namespace);
        return Some(Finding::error(place, what, fix));
    }
    (ready == 0).then(|| {
        let what = format!("none of its {members} pods is Ready ({selector})");
        let fix = format!("kubectl describe pods -n {} -l {selector}", key.namespace);
        Finding::error(place, what, fix)
    })
}

fn show(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels of pods that may have been meant, and what to do.
fn near_misses(
    installation: &Installation,
    key: &ObjectKey,
    wanted: &BTreeMap<String, String>,
) -> (String, String) {
    let pods: Vec<&Pod> =
        installation.snapshot.pods.in_namespace(&key.namespace).map(|(_, pod)| &**pod).collect();
    let selector = show(wanted);
    let relabel = format!("give the model server's pod template the label {selector}");
    if pods.is_empty() {
        return ("no Pod is there at all".into(), format!("deploy the model server there, with {selector}"));
    }
    let labels: BTreeSet<(&String, &String)> =
        pods.iter().flat_map(|pod| pod.metadata.labels.iter().flatten()).collect();
    // What no pod has: the other labels are not the reason.
    let lacking: Vec<_> = wanted.iter().filter(|pair| !labels.contains(pair)).collect();
    let mut like: Vec<(&String, &String)> = Vec::new();
    for (name, value) in &lacking {
        let values: Vec<&String> = labels.iter().filter(|(it, _)| it == name).map(|(_, it)| *it).collect();
        let most_like = nearest(value, values.iter().map(|it| it.as_str()));
        let first = values.iter().copied().filter(|it| Some(it.as_str()) == most_like);
        let others = values.iter().copied().filter(|it| Some(it.as_str()) != most_like);
        like.extend(first.chain(others).map(|it| (*name, it)));
        like.extend(labels.iter().filter(|(other, it)| other != name && it == value));
    }
    let shown: Vec<String> =
        like.iter().take(MAX_SHOWN).map(|(name, value)| format!("{name}={value}")).collect();
    match like.first() {
        None if lacking.is_empty() => {
            ("no Pod has all of these labels, though each is on some".into(), relabel)
        }
        None => (format!("none of the {} Pods there has a label like that", pods.len()), relabel),
        Some((name, value)) => {
            let patch = format!(
                r#"kubectl patch inferencepool {} -n {} --type=merge -p='{{"spec":{{"selector":{{"matchLabels":{{"{name}":"{value}"}}}}}}}}'"#,
                key.name, key.namespace
            );
            (
                format!("Pods there have {}", shown.join(", ")),
                format!("{relabel}, or have the pool ask for theirs: {patch}"),
            )
        }
    }
}

/// Pods need not declare their ports; where they do, the pool's should be among them.
fn ports(key: &ObjectKey, pool: &InferencePool, pods: &[&Pod]) -> Vec<Finding> {
    let declared: BTreeSet<u16> = pods
        .iter()
        .flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers))
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect();
    if declared.is_empty() {
        return Vec::new();
    }
    let targets = pool.spec.target_ports.iter().map(|port| port.number.get());
    targets
        .filter(|target| !declared.contains(target))
        .map(|target| {
            let there = declared.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let what = format!("target port {target} is none of the ports that its pods declare: {there}");
            let fix = "set spec.targetPorts of the pool to the port that the model server listens on";
            Finding::warning(Place::new("InferencePool", key), what, fix)
        })
        .collect()
}

fn picker(installation: &Installation, key: &ObjectKey, reference: &EndpointPickerRef) -> Option<Finding> {
    let place = Place::new("InferencePool", key);
    let service = ObjectKey::new(&key.namespace, &reference.name);
    let (true, "Service", Some(port)) = (reference.group.is_empty(), reference.kind.as_str(), reference.port)
    else {
        let what = "endpointPickerRef is not a Service with a port";
        return Some(Finding::error(
            place,
            what,
            "name the endpoint picker's Service and its port, or nothing",
        ));
    };
    let port = port.number.get();
    // Without its picker a pool that fails open goes on, with pods chosen at random.
    let (level, then) = match reference.failure_mode {
        FailureMode::FailClose => (Level::Error, "requests get 503"),
        FailureMode::FailOpen => (Level::Warning, "pods are chosen at random (FailOpen)"),
    };
    let snapshot = &installation.snapshot;
    let Some(object) = snapshot.services.get(&service) else {
        let what = format!("the endpoint picker's Service {service} does not exist: {then}");
        let fix = "deploy the endpoint picker (charts/inferencepool does), or remove endpointPickerRef: the gateway picks by itself";
        return Some(Finding { level, ..Finding::error(place, what, fix) });
    };
    let ports: Vec<i32> =
        object.spec.iter().flat_map(|it| it.ports.iter().flatten()).map(|it| it.port).collect();
    if !ports.contains(&i32::from(port)) {
        let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let what = format!("the endpoint picker's Service {service} has no port {port}, but {ports}: {then}");
        let fix = "correct endpointPickerRef.port.number";
        return Some(Finding { level, ..Finding::error(place, what, fix) });
    }
    snapshot.service_endpoints(&service, port).is_empty().then(|| {
        let what = format!("the endpoint picker's Service {service} has no ready endpoint: {then}");
        let fix =
            format!("look at its pods: kubectl describe service -n {} {}", service.namespace, service.name);
        Finding { level, ..Finding::error(place, what, fix) }
    })
}
