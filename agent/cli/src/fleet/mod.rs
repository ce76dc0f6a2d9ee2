//! What `forebay top` and `forebay dashboard` show, computed from the agents' state at one time: pods, GPUs, and what is wrong with the agents.

mod gpu;
mod history;
mod key;
mod level;
mod row;
#[cfg(test)]
pub(crate) mod scene;
mod stale;
mod verdict;

use std::{collections::HashSet, time::Instant};

pub(crate) use gpu::{GpuKey, GpuRow};
pub(crate) use history::{History, INTERVAL, SAMPLES};
pub(crate) use key::RowKey;
pub(crate) use level::Level;
pub(crate) use row::Row;
pub(crate) use verdict::Verdict;

use crate::{format, view::View};

/// Everything at one time.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) rows: Vec<Row>,
    pub(crate) gpus: Vec<GpuRow>,
    /// Agents that have answered.
    pub(crate) nodes: usize,
    /// What is wrong with pools and agents, one line each.
    pub(crate) notices: Vec<String>,
    /// Where in a recording this is.
    pub(crate) replay: Option<String>,
}

impl Fleet {
    pub(crate) fn new(view: &View, history: &History, now: Instant) -> Self {
        let gpus: Vec<GpuRow> =
            view.agents.iter().enumerate().flat_map(|(at, agent)| gpu::of_agent(at, agent, now)).collect();
        let shown: HashSet<GpuKey> = view.gpus().map(|(agent, gpu)| gpu::key(view, agent, gpu)).collect();
        let rows = row::all(view, &gpus, history, now);
        Self {
            rows,
            gpus: gpus.into_iter().filter(|gpu| shown.contains(&gpu.key)).collect(),
            nodes: view.nodes().filter(|agent| agent.has_answered()).count(),
            notices: notices(view, now),
            replay: None,
        }
    }

    pub(crate) fn row(&self, key: &RowKey) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == *key)
    }

    pub(crate) fn gpu(&self, key: &GpuKey) -> Option<&GpuRow> {
        self.gpus.iter().find(|gpu| gpu.key == *key)
    }

    pub(crate) fn gpus_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a GpuRow> {
        self.gpus.iter().filter(|gpu| row.gpu_keys.contains(&gpu.key))
    }
}

fn notices(view: &View, now: Instant) -> Vec<String> {
    let mut notices = view.scope.notices().to_vec();
    notices.extend(view.agents.iter().filter_map(|agent| {
        let reason = agent.problem()?;
        let name = &agent.name;
        Some(match agent.replica.frame_age(now) {
            Some(age) => format!("agent {name} lost {} ago: {reason}", format::age(age)),
            None => format!("agent {name}: {reason}"),
        })
    }));
    let waiting =
        view.agents.iter().filter(|agent| !agent.has_answered() && agent.problem().is_none()).count();
    if waiting != 0 {
        notices.push(format!("waiting for the first snapshot of {}", format::plural(waiting, "agent")));
    }
    notices
}
