//! `vllm-sim`: runs the simulator.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use forebay_routing_sim::EngineSpec;
use forebay_sim::{EngineOptions, Server, ServerOptions};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Simulates a vLLM 0.32 server without a GPU.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address of the vLLM API.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Address of the exact counters (JSON, any path).
    #[arg(long, default_value = "127.0.0.1:0")]
    truth_listen: SocketAddr,
    /// Name of the model. Further names are LoRA adapters of it.
    #[arg(long, required = true)]
    served_model_name: Vec<String>,
    /// Maximum requests in the batch.
    #[arg(long, default_value_t = 256)]
    max_num_seqs: u32,
    /// Maximum waiting requests [default: no limit].
    #[arg(long)]
    max_num_queued_reqs: Option<u32>,
    /// Maximum tokens of prompt or output.
    #[arg(long, default_value_t = 1_048_576)]
    max_model_len: u32,
    /// Tokens per KV cache block.
    #[arg(long, default_value_t = 16)]
    block_size: u32,
    /// Number of KV cache blocks.
    #[arg(long, default_value_t = 65_536)]
    num_gpu_blocks: u32,
    /// Prompt tokens computed per second.
    #[arg(long, default_value_t = 1_000_000)]
    prefill_tokens_per_second: u32,
    /// Time between two tokens of a request, in microseconds.
    #[arg(long, default_value_t = 10_000)]
    token_interval_us: u64,
    /// Requests share the steps of an engine with Qwen3-32B on two H100 at this multiple of its speed. Options about blocks
    /// and speed have no effect then.
    #[arg(long, value_name = "FACTOR")]
    steps: Option<f64>,
    /// Delay of the values in /metrics, in milliseconds.
    #[arg(long, default_value_t = 250)]
    metrics_lag_ms: u64,
    /// Interval of SSE comments while a request waits, in milliseconds [default: no comments].
    #[arg(long)]
    sse_keep_alive_ms: Option<u64>,
    /// File with the speed of the engine in percent. 0: the engine hangs, while its server responds. Without the file: 100.
    #[arg(long)]
    speed_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "vllm-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let truth = TcpListener::bind(args.truth_listen).await?;
    let options = ServerOptions {
        engine: EngineOptions {
            max_num_seqs: args.max_num_seqs,
            max_num_queued_reqs: args.max_num_queued_reqs,
            max_model_len: args.max_model_len,
            block_size: args.block_size,
            num_gpu_blocks: args.num_gpu_blocks,
            prefill_tokens_per_second: args.prefill_tokens_per_second,
            token_interval: Duration::from_micros(args.token_interval_us),
            steps: args.steps.map(|speed| EngineSpec::qwen3_32b_2xh100().scaled(speed, 1.0)),
        },
        models: args.served_model_name,
        metrics_lag: Duration::from_millis(args.metrics_lag_ms),
        sse_keep_alive: args.sse_keep_alive_ms.map(Duration::from_millis),
        speed_file: args.speed_file,
    };
    let mut server = Server::start(listener, truth, options)?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = server.join() => anyhow::bail!("a listener failed"),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_options_are_consistent() {
        <super::Args as clap::CommandFactory>::command().debug_assert();
    }
}
