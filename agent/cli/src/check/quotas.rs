//! Quotas that are not enforced, and those without a target.

use forebay_resources::{Kind, ObjectKey};
use forebay_routing::{GATEWAY_GROUP, HTTP_ROUTE, reason};

use super::{
    finding::{Finding, Object},
    installation::Installation,
};

const KIND: &str = "Quota";

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows_all([Kind::Quota, Kind::Gateway, Kind::HttpRoute]) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (key, gateways) in &installation.report.quotas {
        let mut problems: Vec<&str> =
            gateways.values().flat_map(|it| &it.problems).map(|it| it.message.as_str()).collect();
        problems.dedup();
        findings.extend(problems.into_iter().map(|message| {
            Finding::error(Object::new(KIND, key), message, "correct the field that is named")
                .because(reason::INVALID)
        }));
    }
    findings.extend(untargeted(installation));
    findings
}

/// Quotas that target an object which is not in their namespace.
fn untargeted(installation: &Installation) -> Vec<Finding> {
    let snapshot = &installation.snapshot;
    let mut findings = Vec::new();
    for (key, quota) in &snapshot.quotas {
        for target in quota.spec.targets() {
            let named = ObjectKey::new(&key.namespace, &target.name);
            let exists = match (target.group.as_str(), target.kind.as_str()) {
                (GATEWAY_GROUP, "Gateway") => snapshot.gateways.contains_key(&named),
                (GATEWAY_GROUP, HTTP_ROUTE) => snapshot.http_routes.contains_key(&named),
                // Reported as not supported.
                _ => true,
            };
            if !exists {
                let message =
                    format!("targets {} {}, which is not in its namespace", target.kind, target.name);
                let fix =
                    format!("apply the quota in the namespace of the {}, or correct the name", target.kind);
                findings.push(Finding::warning(Object::new(KIND, key), message, fix));
            }
        }
    }
    findings
}
