//! The demo: the main job on one machine, shown and checked.

mod compare;
mod guide;
mod watch;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    load::{self, Mix},
    stage::{Engine, QWEN, SimOptions, Stage, StageOptions, TINYLLAMA},
};

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    pub engine: DemoEngine,
    pub requests: u32,
    /// Stay up at the end.
    pub keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoEngine {
    Sim,
    Vllm,
}

/// Prints to standard output; a reader that went away is no reason to fail.
pub(crate) fn show(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Shows everything; fails if anything is not as it should be.
pub async fn run(options: &DemoOptions) -> Result<()> {
    let started = Instant::now();
    let stage_options = stage_options(options)?;
    show("Starting three model servers, the node agent, two endpoint pickers and the gateway …");
    let stage = tokio::task::block_in_place(|| Stage::start(stage_options))?;
    for pod in &stage.pods {
        show(&format!("  pod {:<22} {:<36} {}", pod.name, pod.model, pod.address));
    }
    let (gateway, agent) = (stage.network.gateway(), stage.network.agent());
    show(&format!("  agent {agent}   gateway {gateway}   ready in {:.1} s", started.elapsed().as_secs_f64()));
    for reason in &stage.off {
        show(&format!("  off: {reason}"));
    }

    show("\n1. The guide's three requests, to one endpoint");
    guide::run(gateway).await?;

    let mix = mix(options);
    show(&format!(
        "\n2. A mixed load: {} requests by {} users ({} leave mid-stream, {} without streaming, {} refused by the \
         engine, {} with 2 MB prompts)",
        mix.requests, mix.users, mix.aborts, mix.whole, mix.refused, mix.long_prompts
    ));
    let loading = Instant::now();
    let watching = watch::start(&stage);
    let comparing = compare::start(&stage);
    let ledger = load::run(gateway, &mix).await;
    let moments = comparing.stop()?;
    watching.stop();
    show(&format!(
        "  {} answered, {} left by their client, {} failed, in {:.1} s",
        ledger.finished(),
        ledger.left(),
        ledger.failed.len(),
        loading.elapsed().as_secs_f64()
    ));
    for failure in ledger.failed.iter().take(5) {
        show(&format!("  failed: {failure}"));
    }

    show("\n3. What the kernel counted, and what the engines say they served");
    let compared = tokio::task::block_in_place(|| compare::at_the_end(&stage, moments));
    if options.keep {
        show(&format!(
            "\nServing until Ctrl-C. Try:\n\n  curl http://{gateway}/v1/chat/completions -H 'Content-Type: application/json' \\\n    \
             -d '{{\"model\": \"{QWEN}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}], \"max_tokens\": 16}}'\n\n  \
             from openai import OpenAI\n  client = OpenAI(base_url=\"http://{gateway}/v1\", api_key=\"none\")\n\n  \
             {} pods --agents {agent} --watch\n",
            stage.program("forebay").display()
        ));
        std::future::pending::<()>().await;
    }
    compared?;
    if !ledger.failed.is_empty() {
        bail!("{} requests failed", ledger.failed.len());
    }
    Ok(())
}

fn mix(options: &DemoOptions) -> Mix {
    let requests = options.requests;
    // Real vLLM on two cores is a hundred times slower than the simulator.
    let (users, tokens, long_prompts, time_limit) = match options.engine {
        DemoEngine::Sim => (24, 40, 6, Duration::from_secs(120)),
        DemoEngine::Vllm => (6, 24, 0, Duration::from_secs(600)),
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

fn stage_options(options: &DemoOptions) -> Result<StageOptions> {
    Ok(match options.engine {
        DemoEngine::Sim => StageOptions {
            engine: Engine::Sim(SimOptions {
                token_interval_us: 8_000,
                max_num_seqs: 16,
                ..SimOptions::default()
            }),
            ..StageOptions::default()
        },
        DemoEngine::Vllm => {
            let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vllm");
            let cache = cache_folder()?;
            show("Setting up real vLLM on the CPU (6 GB and a few minutes the first time) …");
            let status = Command::new(scripts.join("setup"))
                .arg(&cache)
                .status()
                .context("cannot start the set-up")?;
            if !status.success() {
                bail!("the set-up of vLLM ended with {status}");
            }
            StageOptions {
                engine: Engine::Vllm { serve: scripts.join("serve"), cache },
                patience: Duration::from_secs(300),
                ..StageOptions::default()
            }
        }
    })
}

fn cache_folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: where shall vLLM be installed?")?;
    Ok(base.join("forebay/vllm"))
}
