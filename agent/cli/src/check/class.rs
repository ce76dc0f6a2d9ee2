//! The GatewayClass, and the gateway Deployment that serves it.

use forebay_resources::{Kind, ObjectKey};
use forebay_routing::CONTROLLER_NAME;
use k8s_openapi::api::apps::v1::Deployment;

use super::{
    condition::written,
    finding::{Finding, Object, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
};

pub(super) const INSTALL: &str =
    "helm upgrade --install forebay charts/forebay --namespace forebay-system --create-namespace --wait";

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
        findings.extend(gateway(deployments));
    }
    findings
}

fn class(installation: &Installation) -> Option<Finding> {
    let name = &installation.class;
    let object = Object::named("GatewayClass", name);
    let Some(class) = installation.snapshot.gateway_classes.get(&ObjectKey::new("", name)) else {
        return Some(Finding::error(object, "does not exist", INSTALL));
    };
    let controller = &class.spec.controller_name;
    if controller != CONTROLLER_NAME {
        let message = format!("has the controllerName {controller}, not {CONTROLLER_NAME}");
        let fix = "install Forebay with another class (--set gateway.className=NAME), and check that one with --gateway-class NAME";
        return Some(Finding::error(object, message, fix));
    }
    let conditions = class.status.as_ref().and_then(|status| status.conditions.as_deref());
    let why = written(conditions.unwrap_or_default(), "Accepted")?;
    let fix = format!("read the gateway's log for the cause: kubectl logs -A -l {GATEWAY_SELECTOR}");
    Some(Finding::error(object, why.to_string(), fix).because(why.reason))
}

fn gateway(deployments: &[Deployment]) -> Vec<Finding> {
    if deployments.is_empty() {
        let object = Object::named("Deployment", "forebay-gateway");
        let message = format!("no Deployment has the label {GATEWAY_SELECTOR}");
        return vec![Finding::error(object, message, INSTALL)];
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
    let fix = format!("kubectl describe pods -n {} -l {GATEWAY_SELECTOR}", key.namespace);
    match ready {
        // Zero ready replicas is an error even if zero are wanted.
        0 => Finding::error(object, message, fix),
        _ if ready < wanted => Finding::warning(object, message, fix),
        _ => Finding::ok(object, message),
    }
}
