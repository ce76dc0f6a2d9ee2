//! From the monitor's reports to the board: GPUs, and which pods run on them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::members::endpoints;
use crate::{
    discover::LocalPod,
    gpu::{GpuOff, GpuReading, GpuReport, pod_of_process},
    publish::Board,
};

pub(super) async fn follow(
    mut reports: watch::Receiver<GpuReport>,
    mut pods: watch::Receiver<Vec<LocalPod>>,
    proc: PathBuf,
    board: Arc<Board>,
    shutdown: CancellationToken,
) {
    let mut off = None;
    loop {
        let report = reports.borrow_and_update().clone();
        let here = pods.borrow_and_update().clone();
        let now_off = match report {
            GpuReport::Pending => None,
            GpuReport::Off(reason) => {
                // How they are is not known any more.
                board.set_gpus(Vec::new(), &BTreeMap::new(), None);
                Some(reason)
            }
            GpuReport::On(readings) => {
                let used_by = used_by(&readings, &here, &proc);
                let at_ns = readings.iter().map(|reading| reading.gpu.measured_boottime_ns).max();
                let gpus = readings.into_iter().map(|reading| reading.gpu).collect();
                board.set_gpus(gpus, &used_by, at_ns);
                None
            }
        };
        if now_off != off {
            match &now_off {
                // Most nodes of most clusters have none.
                Some(reason @ GpuOff::NoLibrary { .. }) => tracing::info!(%reason, "no GPU values"),
                Some(reason) => tracing::warn!(%reason, "no GPU values"),
                None => {}
            }
            board.set_node(|node| node.gpu_off = now_off.as_ref().map(ToString::to_string));
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

/// Which GPUs run processes of which endpoint.
fn used_by(
    readings: &[GpuReading],
    pods: &[LocalPod],
    proc: &std::path::Path,
) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut pod_gpus = HashMap::<String, Vec<String>>::new();
    for reading in readings {
        for pid in &reading.processes {
            let Some(pod) = pod_of_process(proc, *pid) else { continue };
            let gpus = pod_gpus.entry(pod).or_default();
            if !gpus.contains(&reading.gpu.uuid) {
                gpus.push(reading.gpu.uuid.clone());
            }
        }
    }
    let mut used_by = BTreeMap::new();
    for pod in pods {
        let Some(gpus) = pod_gpus.get(&pod.cgroup_uid) else { continue };
        for address in endpoints(std::slice::from_ref(pod)).into_keys() {
            used_by.insert(address, gpus.clone());
        }
    }
    used_by
}
