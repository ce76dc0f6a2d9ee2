//! `grpc.health.v1` under the names that gateways and manifests probe.

use std::sync::Arc;

use forebay_resources::{ObjectKey, Store};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Whether the process lives; true as long as it answers.
const LIVENESS: &str = "liveness";
/// Whether it can pick: all of these say the same. The empty name is the whole
/// server, `inference-extension` is what the ecosystem's manifests probe.
const READINESS: [&str; 4] =
    ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"];

/// Whether requests can be picked for: resources are loaded and the pool exists.
pub(crate) fn is_ready(store: &Store, pool: &ObjectKey) -> bool {
    let snapshot = store.snapshot();
    snapshot.generation > 0 && snapshot.inference_pools.contains_key(pool)
}

/// Sets all names to what they are at the start: alive, not ready.
pub(crate) async fn register(reporter: &HealthReporter) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    set_readiness(reporter, false).await;
}

/// Follows the store until `draining`, when readiness ends for good.
pub(crate) async fn follow(
    reporter: HealthReporter,
    store: Arc<Store>,
    pool: ObjectKey,
    draining: CancellationToken,
) {
    let mut generations = store.subscribe();
    loop {
        generations.mark_unchanged();
        set_readiness(&reporter, is_ready(&store, &pool)).await;
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
