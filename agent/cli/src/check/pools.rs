//! InferencePools: pods, ports, endpoint picker, and routes.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{
    EndpointPickerRef, FailureMode, InferencePool, Kind, ObjectKey, Pod, takes_requests,
};

use forebay_routing::reason;

use super::{
    finding::{Finding, Level, Object, or_ok},
    installation::Installation,
    nearest::nearest,
    references::backends,
};

/// Maximum similar labels in a message.
const MAX_SIMILAR_LABELS: usize = 3;

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows(Kind::InferencePool, None) {
        return Vec::new();
    }
    let pools = &installation.snapshot.inference_pools;
    if pools.is_empty() {
        let fix = "helm upgrade --install NAME charts/inferencepool --set inferencePool.modelServers.matchLabels.app=NAME";
        return vec![Finding::warning(Object::all("InferencePools"), "no InferencePool exists", fix)];
    }
    pools.iter().flat_map(|(key, pool)| check_pool(installation, key, pool)).collect()
}

fn check_pool(installation: &Installation, key: &ObjectKey, pool: &InferencePool) -> Vec<Finding> {
    let knows = |kind| installation.knows(kind, Some(&key.namespace));
    let mut findings = Vec::new();
    let (mut members, mut ready) = (0, 0);
    if knows(Kind::Pod) {
        let pods: Vec<&Pod> = installation.pool_pods(key).map(|(_, pod)| pod).collect();
        members = pods.len();
        ready = pods.iter().filter(|pod| takes_requests(pod)).count();
        findings.extend(check_members(installation, key, pool, members, ready));
        findings.extend(ports(key, pool, &pods));
    }
    if knows(Kind::Service) && knows(Kind::EndpointSlice) {
        let reference = pool.spec.endpoint_picker_ref.as_ref();
        findings.extend(reference.and_then(|reference| picker(installation, key, reference)));
    }
    if installation.knows(Kind::HttpRoute, None) && !is_referred_to(installation, key) {
        let fix = "apply an HTTPRoute with it in backendRefs (helm upgrade … charts/inferencepool --set httpRoute.enabled=true)";
        findings.push(Finding::warning(Object::new("InferencePool", key), "no HTTPRoute refers to it", fix));
    }
    findings.extend(unaccepted(installation, key));
    if !knows(Kind::Pod) {
        return findings;
    }
    or_ok(findings, || {
        Finding::ok(Object::new("InferencePool", key), format!("{ready} of {members} pods are Ready"))
    })
}

/// Gateways at which no route to the pool is accepted.
fn unaccepted(installation: &Installation, key: &ObjectKey) -> Vec<Finding> {
    if !installation.knows_all([Kind::HttpRoute, Kind::Gateway, Kind::Namespace]) {
        return Vec::new();
    }
    let parents = installation.report.pools.get(key).into_iter().flat_map(|pool| &pool.parents);
    let refused = parents.filter(|(_, accepted)| !accepted.is_true);
    refused
        .map(|(gateway, accepted)| {
            let message = format!("at Gateway {gateway}: {}", accepted.message);
            let fix = "see the findings for the HTTPRoutes that refer to it";
            Finding::warning(Object::new("InferencePool", key), message, fix).because(accepted.reason)
        })
        .collect()
}

fn is_referred_to(installation: &Installation, pool: &ObjectKey) -> bool {
    let mut routes = installation.snapshot.http_routes.iter();
    routes.any(|(key, route)| backends(key, route).any(|backend| backend.is_pool() && backend.key == *pool))
}

fn check_members(
    installation: &Installation,
    key: &ObjectKey,
    pool: &InferencePool,
    members: usize,
    ready: usize,
) -> Option<Finding> {
    let object = Object::new("InferencePool", key);
    let wanted = &pool.spec.selector.match_labels;
    let selector = show(wanted);
    if members == 0 {
        let (similar, fix) = similar_labels(installation, key, wanted);
        let message =
            format!("selects no Pod: its selector is {selector} in namespace {}; {similar}", key.namespace);
        return Some(Finding::error(object, message, fix));
    }
    (ready == 0).then(|| {
        let message = format!("none of its {members} pods is Ready ({selector})");
        let fix = format!("kubectl describe pods -n {} -l {selector}", key.namespace);
        Finding::error(object, message, fix)
    })
}

fn show(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels of existing pods that may have been meant, and the fix.
fn similar_labels(
    installation: &Installation,
    key: &ObjectKey,
    wanted: &BTreeMap<String, String>,
) -> (String, String) {
    let pods: Vec<&Pod> =
        installation.snapshot.pods.in_namespace(&key.namespace).map(|(_, pod)| &**pod).collect();
    let selector = show(wanted);
    let relabel = format!("give the model server's pod template the label {selector}");
    if pods.is_empty() {
        return (
            "the namespace has no Pods".into(),
            format!("deploy the model server there with the label {selector}"),
        );
    }
    let labels: BTreeSet<(&String, &String)> =
        pods.iter().flat_map(|pod| pod.metadata.labels.iter().flatten()).collect();
    // Labels of the selector that no pod has: only they are the cause.
    let missing: Vec<_> = wanted.iter().filter(|pair| !labels.contains(pair)).collect();
    let mut similar: Vec<(&String, &String)> = Vec::new();
    for (name, value) in &missing {
        let values: Vec<&String> = labels.iter().filter(|(it, _)| it == name).map(|(_, it)| *it).collect();
        let most_similar = nearest(value, values.iter().map(|it| it.as_str()));
        let first = values.iter().copied().filter(|it| Some(it.as_str()) == most_similar);
        let others = values.iter().copied().filter(|it| Some(it.as_str()) != most_similar);
        similar.extend(first.chain(others).map(|it| (*name, it)));
        similar.extend(labels.iter().filter(|(other, it)| other != name && it == value));
    }
    let shown: Vec<String> =
        similar.iter().take(MAX_SIMILAR_LABELS).map(|(name, value)| format!("{name}={value}")).collect();
    match similar.first() {
        None if missing.is_empty() => ("no single Pod has all of these labels".into(), relabel),
        None => (format!("none of the {} Pods there has a similar label", pods.len()), relabel),
        Some((name, value)) => {
            let patch = format!(
                r#"kubectl patch inferencepool {} -n {} --type=merge -p='{{"spec":{{"selector":{{"matchLabels":{{"{name}":"{value}"}}}}}}}}'"#,
                key.name, key.namespace
            );
            (
                format!("Pods there have {}", shown.join(", ")),
                format!("{relabel}, or change the selector: {patch}"),
            )
        }
    }
}

/// Declaring ports is optional for pods. If they do, the target ports should be among them.
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
            let message =
                format!("target port {target} is not among the ports that its pods declare: {there}");
            let fix = "set spec.targetPorts of the pool to the port of the model server";
            Finding::warning(Object::new("InferencePool", key), message, fix)
        })
        .collect()
}

fn picker(installation: &Installation, key: &ObjectKey, reference: &EndpointPickerRef) -> Option<Finding> {
    let object = Object::new("InferencePool", key);
    let service = ObjectKey::new(&key.namespace, &reference.name);
    let (true, "Service", Some(port)) = (reference.group.is_empty(), reference.kind.as_str(), reference.port)
    else {
        let message = "endpointPickerRef is not a Service with a port";
        let fix = "name the endpoint picker's Service and its port, or remove endpointPickerRef";
        return Some(Finding::error(object, message, fix).because(reason::INVALID_EXTENSION_REF));
    };
    let port = port.number.get();
    // Without a picker, a FailOpen pool is served by random pods.
    let (level, then) = match reference.failure_mode {
        FailureMode::FailClose => (Level::Error, "requests get 503"),
        FailureMode::FailOpen => (Level::Warning, "pods are chosen at random (FailOpen)"),
    };
    let snapshot = &installation.snapshot;
    let Some(spec) = snapshot.services.get(&service).map(|it| &it.spec) else {
        let message = format!("the endpoint picker's Service {service} does not exist: {then}");
        let fix = "deploy the endpoint picker (charts/inferencepool does), or remove endpointPickerRef: the gateway then picks in its own process";
        let finding = Finding { level, ..Finding::error(object, message, fix) };
        return Some(finding.because(reason::INVALID_EXTENSION_REF));
    };
    let ports: Vec<i32> = spec.iter().flat_map(|it| it.ports.iter().flatten()).map(|it| it.port).collect();
    if !ports.contains(&i32::from(port)) {
        let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the endpoint picker's Service {service} has no port {port}; its ports are {ports}: {then}"
        );
        let fix = "correct endpointPickerRef.port.number";
        return Some(Finding { level, ..Finding::error(object, message, fix) });
    }
    snapshot.service_endpoints(&service, port).is_empty().then(|| {
        let message = format!("the endpoint picker's Service {service} has no ready endpoint: {then}");
        let fix =
            format!("check its pods: kubectl describe service -n {} {}", service.namespace, service.name);
        Finding { level, ..Finding::error(object, message, fix) }
    })
}
