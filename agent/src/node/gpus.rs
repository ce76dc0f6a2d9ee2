//! Publishes the GPUs and which pods use them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::members::endpoints;
use crate::{
    discover::LocalPod,
    gpu::{GpuMeasurement, GpuOff, GpuReport, pod_of_process},
    publish::Publisher,
};

/// Runs until `shutdown`, or until the sender of reports or pods is gone.
pub(super) async fn publish_gpus(
    mut reports: watch::Receiver<GpuReport>,
    mut pods: watch::Receiver<Vec<LocalPod>>,
    proc: PathBuf,
    publisher: Arc<Publisher>,
    shutdown: CancellationToken,
) {
    let mut off = None;
    loop {
        let report = reports.borrow_and_update().clone();
        let local = pods.borrow_and_update().clone();
        let now_off = publish(report, &local, &proc, &publisher);
        if now_off != off {
            match &now_off {
                // Normal on nodes without GPUs.
                Some(reason @ GpuOff::NoLibrary { .. }) => tracing::info!(%reason, "GPUs are not measured"),
                Some(reason) => tracing::warn!(%reason, "GPUs are not measured"),
                None => {}
            }
            publisher.set_node(|node| node.gpu_off = now_off.as_ref().map(ToString::to_string));
            off = now_off;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = reports.changed() => {}
            Ok(()) = pods.changed() => {}
            else => return,
        }
    }
}

/// Returns the reason why GPUs are not measured, if they are not.
#[tracing::instrument(level = "debug", skip_all)]
fn publish(report: GpuReport, pods: &[LocalPod], proc: &Path, publisher: &Publisher) -> Option<GpuOff> {
    match report {
        GpuReport::Pending => None,
        GpuReport::Off(reason) => {
            // Their health is unknown.
            publisher.set_gpus(Vec::new(), &BTreeMap::new(), None);
            Some(reason)
        }
        GpuReport::Measured(measurements) => {
            let used_by = used_by(&measurements, pods, proc);
            let at_ns = measurements.iter().map(|it| it.gpu.measured_boottime_ns).max();
            let gpus = measurements.into_iter().map(|it| it.gpu).collect();
            publisher.set_gpus(gpus, &used_by, at_ns);
            None
        }
    }
}

/// The UUIDs of the GPUs that run processes of each endpoint's pod.
fn used_by(
    measurements: &[GpuMeasurement],
    pods: &[LocalPod],
    proc: &Path,
) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut pod_gpus = HashMap::<String, Vec<String>>::new();
    for measurement in measurements {
        for pid in &measurement.processes {
            let Some(pod) = pod_of_process(proc, *pid) else { continue };
            let gpus = pod_gpus.entry(pod).or_default();
            if !gpus.contains(&measurement.gpu.uuid) {
                gpus.push(measurement.gpu.uuid.clone());
            }
        }
    }
    let mut used_by = BTreeMap::new();
    for pod in pods {
        let Some(gpus) = pod.cgroup_uid.as_ref().ok().and_then(|uid| pod_gpus.get(uid)) else { continue };
        for address in endpoints(std::slice::from_ref(pod)).into_keys() {
            used_by.insert(address, gpus.clone());
        }
    }
    used_by
}
