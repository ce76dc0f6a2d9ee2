//! The GatewayClass, and the gateway Deployment that serves it.

use forebay_resources::{Kind, ObjectKey};
use forebay_routing::CONTROLLER_NAME;
use k8s_openapi::api::apps::v1::Deployment;

use super::{
    advice::{Advice, kubectl},
    condition::written,
    finding::{Finding, Object, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
};

const INSTALL: &str =
    "helm install forebay charts/forebay --namespace forebay-system --create-namespace --wait";

/// How to install what is missing. A command only if nothing of Forebay is there: `helm upgrade` would set the values of an
/// existing release back to the defaults.
pub(super) fn install(installation: &Installation) -> Advice {
    let Some(cluster) = &installation.cluster else { return INSTALL.into() };
    let classes = &installation.snapshot.gateway_classes;
    let has_class = classes.values().any(|class| class.spec.controller_name == CONTROLLER_NAME);
    let is_absent = installation.knows_all([Kind::GatewayClass, Kind::Pod])
        && cluster.deployments.as_ref().is_ok_and(Vec::is_empty)
        && installation.agent_pods().next().is_none()
        && !has_class;
    if is_absent {
        return Advice::Command(INSTALL.into());
    }
    "a part of Forebay is installed: compare the values of its release (helm list -A; helm get values --all), and upgrade \
     it with these values and what is missing"
        .into()
}

/// The gateway's log has the cause.
pub(super) fn gateway_log(installation: &Installation) -> Advice {
    let deployments = installation.cluster.as_ref().and_then(|cluster| cluster.deployments.as_ref().ok());
    let namespace = deployments.and_then(|it| it.first()?.metadata.namespace.as_deref());
    match namespace {
        Some(namespace) => kubectl(&["logs", "-n", namespace, "-l", GATEWAY_SELECTOR, "--tail=100"]),
        None => "read the gateway's log for the cause".into(),
    }
}

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    // A folder has neither.
    let Some(cluster) = &installation.cluster else { return Vec::new() };
    let mut findings = Vec::new();
    if installation.knows(Kind::GatewayClass, None) {
        findings.extend(or_ok(class(installation).into_iter().collect(), || {
            Finding::ok(
                Object::named("GatewayClass", &installation.class),
                format!("accepted by {CONTROLLER_NAME}"),
            )
        }));
    }
    if let Ok(deployments) = &cluster.deployments {
        findings.extend(gateway(installation, deployments));
    }
    findings
}

fn class(installation: &Installation) -> Option<Finding> {
    let name = &installation.class;
    let object = Object::named("GatewayClass", name);
    let Some(class) = installation.snapshot.gateway_classes.get(&ObjectKey::new("", name)) else {
        return Some(Finding::error(object, "does not exist", install(installation)));
    };
    let controller = &class.spec.controller_name;
    if controller != CONTROLLER_NAME {
        let message = format!("has the controllerName {controller}, not {CONTROLLER_NAME}");
        let fix = "install Forebay with another class (--set gateway.className=NAME), and check that one with --gateway-class NAME";
        return Some(Finding::error(object, message, fix));
    }
    let conditions = class.status.as_ref().and_then(|status| status.conditions.as_deref());
    let why = written(conditions.unwrap_or_default(), "Accepted")?;
    let fix = gateway_log(installation);
    Some(Finding::error(object, why.to_string(), fix).because(why.reason))
}

fn gateway(installation: &Installation, deployments: &[Deployment]) -> Vec<Finding> {
    if deployments.is_empty() {
        let object = Object::named("Deployment", "forebay-gateway");
        let message = format!("no Deployment has the label {GATEWAY_SELECTOR}");
        return vec![Finding::error(object, message, install(installation))];
    }
    deployments.iter().map(replicas).collect()
}

fn replicas(deployment: &Deployment) -> Finding {
    let key = ObjectKey {
        namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
    };
    let object = Object::new("Deployment", &key);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let message = format!("{ready} of {wanted} replicas of the gateway are ready");
    let fix = kubectl(&["describe", "pods", "-n", &key.namespace, "-l", GATEWAY_SELECTOR]);
    match ready {
        // Zero ready replicas is an error even if zero are wanted.
        0 => Finding::error(object, message, fix),
        _ if ready < wanted => Finding::warning(object, message, fix),
        _ => Finding::ok(object, message),
    }
}
