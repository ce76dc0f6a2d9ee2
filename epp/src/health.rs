//! The service `grpc.health.v1.Health`, with the service names that gateways and manifests probe.

use std::sync::Arc;

use forebay_resources::Store;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::pools::PoolScope;

/// Service name of the liveness probe. Always `SERVING`.
const LIVENESS: &str = "liveness";
/// Service names of the readiness probe, which all have the same status. The empty name is the whole server (gRPC health
/// checking protocol); the manifests of the Gateway API Inference Extension probe `inference-extension`.
const READINESS: [&str; 4] =
    ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"];

/// Ready when the resources are loaded and, if only one pool is served, it exists.
pub(crate) fn is_ready(store: &Store, scope: &PoolScope) -> bool {
    scope.is_loaded(&store.snapshot())
}

/// Sets the initial statuses: live, not ready.
pub(crate) async fn register(reporter: &HealthReporter) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    set_readiness(reporter, false).await;
}

/// Updates readiness from the store. After `draining`, the status is not ready until the end.
pub(crate) async fn follow(
    reporter: HealthReporter,
    store: Arc<Store>,
    scope: PoolScope,
    draining: CancellationToken,
) {
    let mut generations = store.subscribe();
    loop {
        generations.mark_unchanged();
        set_readiness(&reporter, is_ready(&store, &scope)).await;
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            () = draining.cancelled() => break,
        }
    }
    set_readiness(&reporter, false).await;
}

async fn set_readiness(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in READINESS {
        reporter.set_service_status(name, status).await;
    }
}
