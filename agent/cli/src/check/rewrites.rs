//! InferenceModelRewrites of served pools.

use forebay_resources::Kind;

use super::{
    finding::{Finding, Object},
    installation::Installation,
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows_all([Kind::InferenceModelRewrite, Kind::InferencePool, Kind::HttpRoute]) {
        return Vec::new();
    }
    let rejected = installation.report.rewrites.iter().filter(|(_, status)| !status.is_true);
    rejected
        .map(|(key, status)| {
            let object = Object::new("InferenceModelRewrite", key);
            Finding::error(
                object,
                status.message.clone(),
                "correct spec.poolRef or the target's modelRewrite",
            )
            .because(status.reason)
        })
        .collect()
}
