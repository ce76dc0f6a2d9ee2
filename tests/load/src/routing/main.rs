//! `forebay-routing-processes`: the policies of `forebay-routing-bench` in real processes. Simulated engines, the agent, the
//! picker and the gateway run as on a node, and the requests of a trace go through all of them.
//!
//! Engines and time run faster than those of the trace by the same factor. Times are printed in the time of the trace, so
//! the delays of this machine are multiplied by the factor too.

mod ranks;
mod replay;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use forebay_bench::report;
use forebay_e2e::harness::{
    Engine, Harness, HarnessOptions, PoolOptions, QWEN, SimOptions, prefix_cache_tokens,
};
use forebay_routing_bench::{
    policies::{self, Policy},
    simulate, traces,
};
use forebay_routing_sim::{
    Conditions, EngineSpec, Report, Summary, Time, Trace,
    report::{PolicyRow, table},
    run::{Change, ChangeKind, RunResult},
};

use crate::replay::Target;

/// Compares routing policies in real processes, and their order with that in virtual time
#[derive(Debug, Parser)]
struct Options {
    /// Folder with mooncake_conversation.jsonl and azure_2023_conv.csv
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Trace to run
    #[arg(long, value_name = "NAME", value_enum, default_value = "agents")]
    trace: traces::Name,
    /// Scenarios to run
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum, default_values = ["plain", "disturbed"])]
    scenario: Vec<Scenario>,
    /// Policies to run, by name
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_values = ["forebay", "llm-d blend", "llm-d sticky", "least request", "round robin"]
    )]
    policy: Vec<String>,
    /// Number of pods
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pods: u32,
    /// Requests of a run
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Load as a multiple of the trace's own for 8 pods
    #[arg(long, default_value_t = 1.0)]
    load: f64,
    /// Speed of engines and time as a multiple of the trace's. More needs a faster machine
    #[arg(long, default_value_t = 8.0)]
    speed: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One picker, no other traffic.
    Plain,
    /// Two pickers, 30 % of the requests go to pods without the gateway, one engine at half speed from the middle.
    Disturbed,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-routing-processes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    ensure!(options.speed.is_finite() && options.speed > 0.0, "--speed must be a number above 0");
    let engine = EngineSpec::qwen3_32b_2xh100();
    let all = policies::all(&engine)?;
    let mut selected = Vec::new();
    for name in &options.policy {
        let policy = all.iter().find(|policy| policy.name == name);
        let policy = policy.with_context(|| unknown(name, &all))?;
        selected.push((policy, policy.document(&engine, options.speed)));
    }
    let load = options.load * f64::from(options.pods) / 8.0;
    let trace = options.trace.load(options.traces.as_deref(), options.requests, load, 0);
    let trace = match trace {
        Ok(trace) => trace,
        Err(reason) => bail!("trace {:?}: {reason}", options.trace),
    };
    for scenario in &options.scenario {
        let title = format!(
            "{} · {scenario:?} · {} pods · {} times the speed",
            trace.name, options.pods, options.speed
        );
        let conditions = conditions(*scenario, &engine, options.pods as usize, &trace);
        let (mut real, mut virtual_time) = (Vec::new(), Vec::new());
        for (policy, document) in &selected {
            report::say(&format!("{title}: {} …", policy.name));
            let measured = measure(document, &conditions, &trace, options).await?;
            let row = |report| PolicyRow { policy: policy.name.to_owned(), summary: Summary::of(&[report]) };
            real.push(row(measured));
            let simulated = simulate(policy, &trace, &conditions, 0);
            virtual_time.push(row(simulated.map_err(anyhow::Error::msg)?));
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", table(&format!("{title} · real processes"), policies::FOREBAY, &real))?;
        writeln!(out, "{}", table(&format!("{title} · virtual time"), policies::FOREBAY, &virtual_time))?;
        writeln!(out, "{}", ranks::compared(&real, &virtual_time))?;
    }
    Ok(())
}

fn unknown(name: &str, all: &[Policy]) -> String {
    let names: Vec<&str> = all.iter().map(|policy| policy.name).collect();
    format!("there is no policy {name:?}; use one of {}", names.join(", "))
}

fn conditions(scenario: Scenario, engine: &EngineSpec, pods: usize, trace: &Trace) -> Conditions {
    let mut conditions = Conditions::new(vec![engine.clone(); pods]);
    if scenario == Scenario::Disturbed {
        conditions.replicas = 2;
        conditions.foreign_share = 0.3;
        let at = Time::from_ns(trace.last_start().as_ns() / 2);
        conditions.changes = vec![Change { at, pod: 0, kind: ChangeKind::Speed(0.5) }];
    }
    conditions
}

/// Runs the trace with a picker of this configuration.
async fn measure(
    document: &str,
    conditions: &Conditions,
    trace: &Trace,
    options: &Options,
) -> Result<Report> {
    let harness =
        tokio::task::block_in_place(|| Harness::start(harness_options(document, conditions, options)))?;
    ensure!(
        harness.unavailable.is_empty(),
        "cannot measure on this machine: {}",
        harness.unavailable.join("; ")
    );
    let pods: Vec<SocketAddr> = harness.pods.iter().map(|pod| pod.address).collect();
    let target = Target {
        gateway: harness.network.gateway(),
        pods: pods.clone(),
        foreign_share: conditions.foreign_share,
        speed: options.speed,
        client_timeout: conditions.client_timeout,
        seed: 0,
    };
    let change = async {
        for Change { at, pod, kind } in &conditions.changes {
            tokio::time::sleep(Duration::from_nanos(at.as_ns()).div_f64(options.speed)).await;
            let ChangeKind::Speed(speed) = kind else { bail!("real engines only change their speed") };
            harness.set_speed(*pod, (speed * 100.0).round() as u32)?;
        }
        Ok(())
    };
    let (records, changed) = tokio::join!(replay::replay(trace, target), change);
    changed?;
    let mut report = Report::of(&RunResult { pods: harness.pods.len(), records: records?, preemptions: 0 });
    // Of all engines, requests without the gateway included.
    let (hits, queries) = prefix_cache_tokens(&pods)?;
    report.prefix_hit_share = hits / queries;
    report.busiest_pod_ratio = busiest_pod_ratio(&harness)?;
    Ok(report)
}

fn harness_options(document: &str, conditions: &Conditions, options: &Options) -> HarnessOptions {
    let scaled = |duration: Duration| duration.div_f64(options.speed);
    let lag_ms = scaled(Duration::from_millis(SimOptions::default().metrics_lag_ms)).as_millis();
    HarnessOptions {
        engine: Engine::Sim(SimOptions {
            steps: Some(options.speed),
            metrics_lag_ms: u64::try_from(lag_ms).unwrap_or(u64::MAX).max(1),
            ..SimOptions::default()
        }),
        pools: vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: options.pods }],
        picker_replicas: conditions.replicas,
        picker_config: Some(document.to_owned()),
        scrape_interval: Some(scaled(conditions.scrape_interval).max(Duration::from_millis(50))),
        start_timeout: Duration::from_secs(60),
        ..HarnessOptions::default()
    }
}

/// Requests of the busiest pod by the mean of all pods, requests without the gateway included.
fn busiest_pod_ratio(harness: &Harness) -> Result<f64> {
    let started: Vec<u64> = harness.pods.iter().map(|pod| Ok(pod.truth()?.started)).collect::<Result<_>>()?;
    let (most, sum) = (started.iter().max().copied().unwrap_or_default(), started.iter().sum::<u64>());
    Ok(most as f64 * started.len() as f64 / sum as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_options_are_consistent() {
        <super::Options as clap::CommandFactory>::command().debug_assert();
    }
}
