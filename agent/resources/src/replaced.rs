//! Kinds that another API group has replaced. Their objects are not read, and not ignored in silence.

/// A kind of an older API group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    /// What to use instead.
    pub(crate) instead: &'static str,
}

/// Gateway API Inference Extension before v1.0.
pub(crate) const REPLACED: [Replaced; 2] = [
    Replaced {
        group: "inference.networking.x-k8s.io",
        kind: "InferencePool",
        plural: "inferencepools",
        instead: "InferencePool of inference.networking.k8s.io/v1, with spec.selector.matchLabels, spec.targetPorts and \
            spec.endpointPickerRef",
    },
    Replaced {
        group: "inference.networking.x-k8s.io",
        kind: "InferenceModel",
        plural: "inferencemodels",
        instead: "an HTTPRoute that matches the model, and InferenceObjective of llm-d.ai/v1alpha2 for priorities",
    },
];

impl Replaced {
    pub(crate) fn find(group: &str, kind: &str) -> Option<&'static Self> {
        REPLACED.iter().find(|it| it.group == group && it.kind == kind)
    }

    pub(crate) fn message(&self) -> String {
        format!("objects of the API group {} are not served; use {}", self.group, self.instead)
    }
}
