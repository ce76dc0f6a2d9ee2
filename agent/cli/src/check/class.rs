//! The GatewayClass, and the gateway that has accepted it.

use forebay_resources::{Kind, ObjectKey};
use k8s_openapi::api::apps::v1::Deployment;

use super::{
    condition::why_not,
    finding::{Finding, Place, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
};

pub(super) const CONTROLLER: &str = "forebay.dev/gateway";
pub(super) const INSTALL: &str =
    "helm upgrade --install forebay charts/forebay --namespace forebay-system --create-namespace --wait";

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    // A folder needs neither.
    let Some(cluster) = &installation.cluster else { return Vec::new() };
    let mut findings = Vec::new();
    if installation.knows(Kind::GatewayClass, None) {
        findings.extend(or_ok(class(installation).into_iter().collect(), || {
            Finding::ok(
                Place::named("GatewayClass", &installation.class),
                format!("accepted by {CONTROLLER}"),
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
    let place = Place::named("GatewayClass", name);
    let Some(class) = installation.snapshot.gateway_classes.get(&ObjectKey::new("", name)) else {
        return Some(Finding::error(place, "does not exist", INSTALL));
    };
    let controller = &class.spec.controller_name;
    if controller != CONTROLLER {
        let what = format!("belongs to the controller {controller}, not to {CONTROLLER}");
        let fix = "give Forebay a class of its own (--set gateway.className=NAME), and name it here with --gateway-class";
        return Some(Finding::error(place, what, fix));
    }
    let conditions = class.status.as_ref().and_then(|status| status.conditions.as_deref());
    let why = why_not(conditions.unwrap_or_default(), "Accepted")?;
    let fix = format!("look why the gateway does not: kubectl logs -A -l {GATEWAY_SELECTOR}");
    Some(Finding::error(place, why.to_string(), fix))
}

fn gateway(deployments: &[Deployment]) -> Vec<Finding> {
    if deployments.is_empty() {
        let place = Place::named("Deployment", "forebay-gateway");
        let what = format!("no Deployment has the label {GATEWAY_SELECTOR}");
        return vec![Finding::error(place, what, INSTALL)];
    }
    deployments.iter().map(replicas).collect()
}

fn replicas(deployment: &Deployment) -> Finding {
    let key = ObjectKey {
        namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
    };
    let place = Place::new("Deployment", &key);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let what = format!("{ready} of {wanted} replicas of the gateway are ready");
    let fix = format!("kubectl describe pods -n {} -l {GATEWAY_SELECTOR}", key.namespace);
    match ready {
        // None is none, also where none was asked for.
        0 => Finding::error(place, what, fix),
        _ if ready < wanted => Finding::warning(place, what, fix),
        _ => Finding::ok(place, what),
    }
}
