//! The suite of the Gateway API Inference Extension.

use super::{
    super::{Channel, crds::INFERENCE_EXTENSION},
    Suite,
    suite::Program,
};
use crate::image;

/// The version of Gateway API that the suite accepts: its own requirement.
const GATEWAY_API: &str = "1.6.1";
/// The reference picker in the manifests of the suite.
const PICKER_IMAGE: &str = "registry.k8s.io/gateway-api-inference-extension/lwepp:v1.6.0";

pub(super) fn suite() -> Suite {
    Suite {
        title: "Gateway API Inference Extension conformance suite",
        program: Program {
            name: "conformance-inference-extension",
            module: "sigs.k8s.io/gateway-api-inference-extension/conformance",
            version: INFERENCE_EXTENSION.1,
            requires: &[],
        },
        gateway_api: GATEWAY_API,
        channel: Channel::Standard,
        // The suite waits for a pod in the namespace of its Gateways.
        namespace: "inference-conformance-infra",
        // The manifests of the pickers give them no certificates.
        values: &["tls.enabled=false"],
        echo_images: &["gcr.io/k8s-staging-gateway-api/echo-basic:v20251106-v1.3.0-263-g47c3435c"],
        profile: "Gateway",
        report: format!("inference-extension-v{}.yaml", INFERENCE_EXTENSION.1),
        images: |cluster, folder| {
            // Tests choose endpoints by header, as the reference picker lets them.
            let archive = folder.join("picker.tar");
            image::write_picker_for_tests(PICKER_IMAGE, &["--conformance-headers"], &archive)?;
            cluster.load(&[archive])
        },
    }
}
