//! GPUs.

use std::time::{Duration, Instant};

use forebay_telemetry::v1::{Gpu, GpuHealth};

use super::{level::Level, stale::STALE};
use crate::view::{Agent, View};

/// Agent and UUID.
pub(crate) type GpuKey = (usize, String);

/// A GPU with what other objects say about it.
#[derive(Clone, Debug)]
pub(crate) struct GpuRow {
    pub(crate) key: GpuKey,
    pub(crate) node: String,
    pub(crate) gpu: Gpu,
    pub(crate) level: Level,
    pub(crate) age: Option<Duration>,
    pub(crate) is_stale: bool,
    /// Time since the last XID error.
    pub(crate) xid_age: Option<Duration>,
    /// Namespace and name of the pods that use it.
    pub(crate) pods: Vec<String>,
}

pub(super) fn of_agent(at: usize, agent: &Agent, now: Instant) -> impl Iterator<Item = GpuRow> + use<'_> {
    agent.replica.gpus().into_iter().map(move |gpu| {
        let age = agent.replica.gpu_age(gpu, now);
        let mut pods: Vec<String> = agent
            .pods_on(gpu)
            .filter_map(|endpoint| endpoint.key.as_ref())
            .map(|key| format!("{}/{}", key.namespace, key.pod))
            .collect();
        pods.dedup();
        GpuRow {
            key: (at, gpu.uuid.clone()),
            node: agent.node.name.clone(),
            level: match gpu.health() {
                GpuHealth::Unspecified => Level::Unknown,
                GpuHealth::Ok => Level::Ok,
                GpuHealth::Degraded => Level::Suspect,
                GpuHealth::Lost => Level::Failed,
            },
            is_stale: agent.problem().is_some() || age.is_none_or(|age| age > STALE),
            age,
            xid_age: gpu.last_xid_boottime_ns.and_then(|at_ns| agent.replica.age(at_ns, now)),
            pods,
            gpu: gpu.clone(),
        }
    })
}

pub(super) fn key(view: &View, agent: &Agent, gpu: &Gpu) -> GpuKey {
    let at = view.agents.iter().position(|it| std::ptr::eq(it, agent)).unwrap_or_default();
    (at, gpu.uuid.clone())
}
