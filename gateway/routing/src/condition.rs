//! Status conditions as routing decides them.

/// Condition reasons, as Gateway API and its Inference Extension spell them.
#[allow(missing_docs, reason = "each is the specification's own word")]
pub mod reason {
    pub const ACCEPTED: &str = "Accepted";
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    pub const NO_CONFLICTS: &str = "NoConflicts";

    // Listeners.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
    pub const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    pub const INVALID_CA_CERTIFICATE_REF: &str = "InvalidCACertificateRef";
    pub const INVALID_CA_CERTIFICATE_KIND: &str = "InvalidCACertificateKind";
    pub const NO_VALID_CA_CERTIFICATE: &str = "NoValidCACertificate";
    pub const CONFIGURATION_CHANGED: &str = "ConfigurationChanged";
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";

    // HTTPRoutes at one parent.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";

    // References, of listeners and of routes.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub const INVALID_KIND: &str = "InvalidKind";
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";

    // AgentgatewayPolicies at one ancestor (Gateway API, PolicyConditionReason).
    pub const INVALID: &str = "Invalid";

    // Quotas: conditions of this controller's own types.
    pub const ATTACHED: &str = "Attached";
    pub const NO_KEYS: &str = "NoKeys";
    pub const STORE: &str = "Store";
    pub const PER_REPLICA: &str = "PerReplica";

    // InferenceModelRewrites: their API defines Accepted only; the rest is PolicyConditionReason.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";

    // InferencePools at one parent.
    pub const HTTP_ROUTE_NOT_ACCEPTED: &str = "HTTPRouteNotAccepted";
    pub const INVALID_EXTENSION_REF: &str = "InvalidExtensionRef";

    // InferencePools: conditions of this controller's own types.
    pub const NO_PODS: &str = "NoPods";
    pub const PODS_NOT_READY: &str = "PodsNotReady";
    pub const PORT_NOT_FOUND: &str = "PortNotFound";
    pub const NO_READY_ENDPOINTS: &str = "NoReadyEndpoints";
    pub const SAME_PODS: &str = "SamePods";
}

/// Condition types of this controller: present and true while the problem exists.
pub mod kind {
    /// No pod of an InferencePool can serve requests.
    pub const NO_READY_PODS: &str = "forebay.dev/NoReadyPods";
    /// The endpoint picker of an InferencePool cannot be reached.
    pub const PICKER_UNAVAILABLE: &str = "forebay.dev/PickerUnavailable";
    /// Two InferencePools have the same pods and ports.
    pub const SELECTOR_OVERLAP: &str = "forebay.dev/SelectorOverlap";
}

/// Status, reason and message of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionStatus {
    /// `status: "True"`.
    pub is_true: bool,
    /// One of [`reason`].
    pub reason: &'static str,
    /// Empty where the reason is enough.
    pub message: String,
}

impl ConditionStatus {
    /// `status: "True"` without a message.
    pub fn met(reason: &'static str) -> Self {
        Self { is_true: true, reason, message: String::new() }
    }

    /// `status: "False"` with the cause.
    pub fn unmet(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_true: false, reason, message: message.into() }
    }
}
