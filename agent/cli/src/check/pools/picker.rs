//! The endpoint picker of a pool: its Service, and the pods behind it.

use std::collections::BTreeSet;

use forebay_resources::{EndpointPickerRef, FailureMode, InferencePool, Kind, ObjectKey, Pod, Service};
use forebay_routing::{PoolProblem, reason, without_picker};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    super::{
        advice::{Advice, kubectl},
        finding::{Finding, Level, Object},
        installation::Installation,
    },
    Checked, finding, ports,
};

/// Whether the Services and EndpointSlices of the pool's namespace could be listed.
pub(super) fn is_known(installation: &Installation, key: &ObjectKey) -> bool {
    [Kind::Service, Kind::EndpointSlice].iter().all(|kind| installation.knows(*kind, Some(&key.namespace)))
}

/// Without a picker, a FailOpen pool is still served.
fn level(picker: &EndpointPickerRef) -> Level {
    match picker.failure_mode {
        FailureMode::FailClose => Level::Error,
        FailureMode::FailOpen => Level::Warning,
    }
}

/// A Service without the port or without a ready endpoint, as routing has found it.
pub(super) fn unavailable(key: &ObjectKey, pool: &InferencePool, problem: PoolProblem) -> Finding {
    let picker = pool.spec.endpoint_picker_ref.as_ref();
    let fix: Advice = match (problem.status.reason, picker) {
        (reason::NO_READY_ENDPOINTS, Some(picker)) => {
            kubectl(&["describe", "service", "-n", &key.namespace, &picker.name])
        }
        _ => "correct endpointPickerRef.port.number of the pool, or the port of the Service".into(),
    };
    finding(picker.map_or(Level::Error, level), key, problem, fix)
}

/// What routing does not judge: an invalid reference, a missing Service, and a port on which no container listens.
pub(super) fn check(installation: &Installation, key: &ObjectKey, pool: &InferencePool) -> Checked {
    let Some(picker) = &pool.spec.endpoint_picker_ref else {
        return Checked {
            findings: Vec::new(),
            summary: Some("the gateway picks in its own process".into()),
        };
    };
    let object = || Object::new("InferencePool", key);
    let only = |finding: Finding| Checked { findings: vec![finding], summary: None };
    let service = ObjectKey::new(&key.namespace, &picker.name);
    let (true, "Service", Some(port)) = (picker.group.is_empty(), picker.kind.as_str(), picker.port) else {
        let message = "endpointPickerRef is not a Service with a port";
        let fix = "name the endpoint picker's Service and its port, or remove endpointPickerRef";
        return only(Finding::error(object(), message, fix).because(reason::INVALID_EXTENSION_REF));
    };
    if !is_known(installation, key) {
        let why = "the Services and EndpointSlices of its namespace cannot be listed";
        let fix = format!("run as a user that may `list` services and endpointslices in {}", key.namespace);
        return only(Finding::not_checked(object(), format!("endpoint picker: {why}"), fix));
    }
    let snapshot = &installation.snapshot;
    let Some(known) = snapshot.services.get(&service) else {
        let then = without_picker(picker.failure_mode);
        let message = format!("the endpoint picker's Service {service} does not exist: {then}");
        let fix = "deploy the endpoint picker (chart inferencepool); if only Forebay's gateway serves the pool, removing \
            endpointPickerRef is enough: it then picks in its own process";
        let finding = Finding { level: level(picker), ..Finding::error(object(), message, fix) };
        return only(finding.because(reason::INVALID_EXTENSION_REF));
    };
    let endpoints = snapshot.service_endpoints(&service, port.number.get()).len();
    Checked {
        findings: listens(installation, key, picker, known, port.number.get()).into_iter().collect(),
        summary: (endpoints > 0).then(|| format!("the endpoint picker has {endpoints} ready endpoints")),
    }
}

/// A Service whose target port no container of its pods declares: endpoints look ready and refuse connections.
fn listens(
    installation: &Installation,
    key: &ObjectKey,
    picker: &EndpointPickerRef,
    service: &Service,
    port: u16,
) -> Option<Finding> {
    let spec = service.spec.as_ref()?;
    let target = spec.ports.iter().flatten().find(|it| it.port == i32::from(port))?;
    let number = match &target.target_port {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok()?,
        // A named port without a container is not an endpoint.
        Some(IntOrString::String(_)) => return None,
        None => port,
    };
    let selector = spec.selector.as_ref().filter(|it| !it.is_empty())?;
    if !installation.knows(Kind::Pod, Some(&key.namespace)) {
        return None;
    }
    let selects = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.iter().all(|(name, value)| labels.is_some_and(|it| it.get(name) == Some(value)))
    };
    let pods = installation.snapshot.pods.in_namespace(&key.namespace).map(|(_, pod)| &**pod);
    let declared: BTreeSet<u16> = ports::declared(pods.filter(selects));
    if declared.is_empty() || declared.contains(&number) {
        return None;
    }
    let there = declared.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!(
        "the endpoint picker's Service {}/{} leads to port {number}, which its pods do not declare ({there}); if they do not \
         listen there: {}",
        key.namespace,
        picker.name,
        without_picker(picker.failure_mode)
    );
    let fix = "set targetPort of the Service to the port on which the endpoint picker listens";
    Some(Finding::warning(Object::new("InferencePool", key), message, fix))
}
