//! The steps of the demo.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use clap::ValueEnum;
use forebay_e2e::{
    harness::{Engine, Harness, HarnessOptions, PoolOptions, QWEN, SimOptions, TINYLLAMA},
    load::{self, Mix},
};

use crate::{compare, conversations, frozen, guide, output::show, watch};

/// Starts all programs on this machine, sends traffic, compares the counters of kernel and engines.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "forebay-demo")]
pub(crate) struct Options {
    /// Model servers to start.
    #[arg(long, value_enum, default_value_t = EngineKind::Sim)]
    engine: EngineKind,
    /// Number of requests of the mixed load.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(30..=100_000))]
    requests: u32,
    /// Keep everything running after the checks, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineKind {
    /// The vLLM simulator.
    Sim,
    /// vLLM on the CPU with a tiny model.
    Vllm,
}

/// Runs the demo. Fails when a check fails.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let harness_options = harness_options(options)?;
    show("Starting three model servers, the node agent, two endpoint pickers and the gateway …");
    let harness = tokio::task::block_in_place(|| Harness::start(harness_options))?;
    for pod in &harness.pods {
        show(&format!("  pod {:<22} {:<36} {}", pod.name, pod.model, pod.address));
    }
    let (gateway, agent) = (harness.network.gateway(), harness.network.agent());
    show(&format!("  agent {agent}   gateway {gateway}   ready in {:.1} s", started.elapsed().as_secs_f64()));
    for reason in &harness.unavailable {
        show(&format!("  not available: {reason}"));
    }

    show("\n1. Three requests of the llm-d guide, all to the same gateway address");
    guide::run(gateway).await?;

    let mix = mix(options);
    show(&format!(
        "\n2. A mixed load: {} requests by {} clients ({} aborted by the client, {} without streaming, {} rejected by the \
         engine, {} with 2 MB prompts)",
        mix.requests, mix.users, mix.aborts, mix.whole, mix.refused, mix.long_prompts
    ));
    let loading = Instant::now();
    let table = watch::start(&harness);
    let comparison = compare::start(&harness);
    let ledger = load::run(gateway, &mix).await;
    let moments = comparison.stop()?;
    table.stop();
    show(&format!(
        "  {} complete, {} aborted by the client, {} failed, in {:.1} s",
        ledger.finished(),
        ledger.aborted(),
        ledger.failed.len(),
        loading.elapsed().as_secs_f64()
    ));
    for failure in ledger.failed.iter().take(5) {
        show(&format!("  failed: {failure}"));
    }

    show("\n3. Requests counted by the kernel and by the engines");
    let compared = tokio::task::block_in_place(|| compare::at_the_end(&harness, moments));
    if options.keep {
        show(&format!(
            "\nServing until Ctrl-C. Try:\n\n  curl http://{gateway}/v1/chat/completions -H 'Content-Type: application/json' \\\n    \
             -d '{{\"model\": \"{QWEN}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}], \"max_tokens\": 16}}'\n\n  \
             from openai import OpenAI\n  client = OpenAI(base_url=\"http://{gateway}/v1\", api_key=\"none\")\n\n  \
             {} pods --agents {agent} --watch\n",
            harness.program("forebay").display()
        ));
        std::future::pending::<()>().await;
    }
    compared?;
    if !ledger.failed.is_empty() {
        bail!("{} requests failed", ledger.failed.len());
    }
    drop(harness);
    match options.engine {
        EngineKind::Sim => with_caches().await,
        EngineKind::Vllm => Ok(()),
    }
}

/// Four engines with small caches, which take time to compute a prompt.
async fn with_caches() -> Result<()> {
    show("\n4. Two groups of conversations with long system prompts, on four pods with small caches");
    let harness_options = HarnessOptions {
        engine: Engine::Sim(SimOptions {
            prefill_tokens_per_second: 20_000,
            num_gpu_blocks: 1024,
            ..SimOptions::default()
        }),
        pools: vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 4 }],
        ..HarnessOptions::default()
    };
    let harness = tokio::task::block_in_place(|| Harness::start(harness_options))?;
    conversations::run(&harness).await?;
    show("\n5. An engine that freezes (SIGSTOP), and continues");
    frozen::run(&harness).await
}

fn mix(options: &Options) -> Mix {
    let requests = options.requests;
    // Real vLLM on two cores is a hundred times slower than the simulator.
    let (users, tokens, long_prompts, time_limit) = match options.engine {
        EngineKind::Sim => (24, 40, 6, Duration::from_secs(120)),
        EngineKind::Vllm => (6, 24, 0, Duration::from_secs(600)),
    };
    Mix {
        requests,
        aborts: requests / 12,
        whole: requests / 30,
        refused: requests / 30,
        long_prompts,
        long_prompt_bytes: 2 << 20,
        tokens,
        users,
        models: vec![QWEN.into(), TINYLLAMA.into(), QWEN.into()],
        time_limit,
    }
}

fn harness_options(options: &Options) -> Result<HarnessOptions> {
    Ok(match options.engine {
        EngineKind::Sim => HarnessOptions {
            engine: Engine::Sim(SimOptions {
                token_interval_us: 8_000,
                max_num_seqs: 16,
                ..SimOptions::default()
            }),
            ..HarnessOptions::default()
        },
        EngineKind::Vllm => {
            let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vllm");
            let cache = cache_folder()?;
            show("Setting up real vLLM on the CPU (6 GB and a few minutes the first time) …");
            let status = Command::new(scripts.join("setup"))
                .arg(&cache)
                .status()
                .context("cannot start tests/vllm/setup")?;
            if !status.success() {
                bail!("the setup of vLLM failed with {status}");
            }
            HarnessOptions {
                engine: Engine::Vllm { serve: scripts.join("serve"), cache },
                start_timeout: Duration::from_secs(300),
                ..HarnessOptions::default()
            }
        }
    })
}

fn cache_folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("cannot install vLLM: neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("forebay/vllm"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_options_are_consistent() {
        <super::Options as clap::CommandFactory>::command().debug_assert();
    }
}
