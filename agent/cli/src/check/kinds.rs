//! Installed kinds, missing permissions, and invalid objects.

use forebay_resources::{
    Kind,
    cluster::{Listed, Selection},
};

use super::{
    advice::Advice,
    finding::{Finding, Object, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
};

const CRD: &str = "CustomResourceDefinition";
// `create` installs what is missing; `apply` would also replace what is installed, perhaps by an older version.
const GATEWAY_API: &str = "kubectl create -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml";
const INFERENCE_EXTENSION: &str = "kubectl create -f https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/download/v1.6.0/manifests.yaml";

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(cluster) = &installation.cluster {
        findings.extend(
            cluster.outcomes.iter().filter_map(|(selection, outcome)| check_kind(selection, outcome)),
        );
        if let Err(why) = &cluster.deployments {
            findings.push(not_checked(format!("deployments with {GATEWAY_SELECTOR}"), why));
        }
        if let Err(why) = &cluster.replaced {
            findings.push(not_checked("objects of inference.networking.x-k8s.io".into(), why));
        }
    }
    let replaced = installation.cluster.iter().flat_map(|cluster| cluster.replaced.iter().flatten());
    findings.extend(installation.snapshot.problems.iter().chain(replaced).map(|problem| {
        let object = Object::all(problem.object.as_deref().unwrap_or(&problem.place));
        let message = format!("is invalid and ignored: {} ({})", problem.message, problem.place);
        Finding::error(object, message, "correct the named field")
    }));
    or_ok(findings, || {
        let message = if installation.is_cluster() {
            "Gateway API and InferencePool are installed, and all objects are valid"
        } else {
            "all documents of the folder are valid"
        };
        Finding::ok(Object::all("Kinds"), message)
    })
}

fn check_kind(selection: &Selection, outcome: &Listed) -> Option<Finding> {
    match outcome {
        Listed::All => None,
        Listed::NotInstalled => not_installed(selection.kind()),
        Listed::Unknown(why) => Some(not_checked(selection.to_string(), why)),
    }
}

/// `None` for kinds that every cluster has.
fn not_installed(kind: Kind) -> Option<Finding> {
    let needed = |name: &str, fix: &str| {
        let fix = Advice::Command(fix.into());
        Some(Finding::error(Object::named(CRD, name), "is not installed, and is required", fix))
    };
    // Optional kinds.
    let optional = |name: &str, what: &str, plural: &str| {
        Some(Finding {
            fix: Some(Advice::Command(format!("forebay crds {plural} | kubectl create -f -"))),
            ..Finding::ok(Object::named(CRD, name), format!("is not installed; needed only for {what}"))
        })
    };
    match kind {
        Kind::GatewayClass => needed("gatewayclasses.gateway.networking.k8s.io", GATEWAY_API),
        Kind::Gateway => needed("gateways.gateway.networking.k8s.io", GATEWAY_API),
        Kind::HttpRoute => needed("httproutes.gateway.networking.k8s.io", GATEWAY_API),
        Kind::ReferenceGrant => needed("referencegrants.gateway.networking.k8s.io", GATEWAY_API),
        Kind::InferencePool => needed("inferencepools.inference.networking.k8s.io", INFERENCE_EXTENSION),
        Kind::AgentgatewayPolicy => optional(
            "agentgatewaypolicies.agentgateway.dev",
            "a map of model names as an AgentgatewayPolicy",
            "agentgatewaypolicies",
        ),
        Kind::BackendTlsPolicy => Some(Finding::ok(
            Object::named(CRD, "backendtlspolicies.gateway.networking.k8s.io"),
            "is not installed; needed only for TLS to servers of key sets and rate limits",
        )),
        Kind::Quota => optional("quotas.forebay.dev", "quotas", "quotas"),
        Kind::InferenceObjective => {
            optional("inferenceobjectives.llm-d.ai", "priorities of requests", "inferenceobjectives")
        }
        Kind::InferenceModelRewrite => {
            optional("inferencemodelrewrites.llm-d.ai", "model rewrites", "inferencemodelrewrites")
        }
        Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::Namespace => None,
    }
}

fn not_checked(what: String, why: &str) -> Finding {
    let fix = format!("run as a user that may `list` {what}; what depends on them is not checked");
    Finding::not_checked(Object::all(what), why, fix)
}
