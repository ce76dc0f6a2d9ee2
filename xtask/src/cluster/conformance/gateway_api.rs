//! The suite of Gateway API.

use super::{
    super::{Channel, containers, crds::GATEWAY_API_VERSION},
    Suite,
    suite::Program,
};

pub(super) const VERSION: &str = GATEWAY_API_VERSION;
pub(super) const MODULE: &str = "sigs.k8s.io/gateway-api/conformance";
/// The suite waits for this pod, but uses it only for UDP routes, which are not part of the profile. An image that
/// only waits is enough.
const DNS_IMAGE: &str = "registry.k8s.io/coredns/coredns:v1.12.2";

pub(super) fn suite() -> Suite {
    Suite {
        title: "Gateway API conformance suite",
        program: Program {
            name: "conformance-gateway-api",
            module: MODULE,
            version: VERSION,
            requires: &[("sigs.k8s.io/gateway-api", VERSION)],
        },
        gateway_api: VERSION,
        // Some claimed features are only in the experimental channel.
        channel: Channel::Experimental,
        namespace: "forebay-system",
        // The suite creates Secrets for listeners in namespaces of its own. There are no pickers of ours.
        values: &["gateway.allSecrets=true", "tls.enabled=false"],
        echo_images: &[
            "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
            "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
            "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3",
        ],
        profile: "GATEWAY-HTTP",
        report: format!("gateway-api-v{VERSION}.yaml"),
        images: |cluster, _| containers::import_pause_image(cluster, DNS_IMAGE, "coredns"),
    }
}
