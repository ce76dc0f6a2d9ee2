//! Starts the model server of a pod.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Process;

/// Model server to run.
#[derive(Clone, Debug)]
pub enum Engine {
    /// The simulator.
    Sim(SimOptions),
    /// Real vLLM: its serve script and its cache folder.
    Vllm { serve: PathBuf, cache: PathBuf },
}

#[derive(Clone, Debug)]
pub struct SimOptions {
    pub max_num_seqs: u32,
    pub prefill_tokens_per_second: u32,
    pub token_interval_us: u64,
    pub metrics_lag_ms: u64,
    /// Blocks of 16 tokens in the KV cache.
    pub num_gpu_blocks: u32,
    /// Requests share the steps of an engine at this multiple of the speed of two H100. The options about blocks and speed
    /// have no effect then.
    pub steps: Option<f64>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            prefill_tokens_per_second: 2_000_000,
            token_interval_us: 10_000,
            metrics_lag_ms: 250,
            num_gpu_blocks: 65_536,
            steps: None,
        }
    }
}

/// Port of the exact counters of a simulator.
const TRUTH_PORT: u16 = 7999;

/// File with the speed of a simulator.
pub(super) fn speed_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.speed"))
}

pub(super) fn start(
    engine: &Engine,
    programs: &Path,
    name: &str,
    model: &str,
    address: SocketAddr,
    logs: &Path,
    cgroup_procs: Option<&Path>,
) -> Result<(Process, Option<SocketAddr>)> {
    match engine {
        Engine::Sim(options) => {
            let truth = SocketAddr::new(address.ip(), TRUTH_PORT);
            let args = [
                ("--listen", address.to_string()),
                ("--truth-listen", truth.to_string()),
                ("--served-model-name", model.to_owned()),
                ("--max-num-seqs", options.max_num_seqs.to_string()),
                ("--prefill-tokens-per-second", options.prefill_tokens_per_second.to_string()),
                ("--token-interval-us", options.token_interval_us.to_string()),
                ("--metrics-lag-ms", options.metrics_lag_ms.to_string()),
                ("--num-gpu-blocks", options.num_gpu_blocks.to_string()),
                ("--speed-file", speed_file(logs, name).display().to_string()),
            ];
            let steps = options.steps.map(|speed| ("--steps", speed.to_string()));
            let args: Vec<String> =
                args.into_iter().chain(steps).flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
            let process = Process::start(name, &programs.join("vllm-sim"), &args, &[], logs, cgroup_procs)?;
            Ok((process, Some(truth)))
        }
        Engine::Vllm { serve, cache } => {
            let args = [
                cache.display().to_string(),
                address.ip().to_string(),
                address.port().to_string(),
                model.to_owned(),
            ];
            Ok((Process::start(name, serve, &args, &[], logs, cgroup_procs)?, None))
        }
    }
}
