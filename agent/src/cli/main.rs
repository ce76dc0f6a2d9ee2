//! forebay, the command line: what the nodes' agents know.
//!
//! Also found by kubectl, as `kubectl forebay`, when installed as `kubectl-forebay`.

mod agents;
mod json;
mod table;
mod view;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::time::MissedTickBehavior;
use view::View;

/// Shows what is measured on the nodes: requests, engines, GPUs.
///
/// Exit codes: 0 all agents answered, 1 none did or the output failed, 2 wrong
/// usage, 3 some agents did not answer.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nodes and their agents.
    Nodes(Options),
    /// Inference pods: load as the kernel counts it and as the engine says.
    Pods(Options),
    /// GPUs and their health.
    Gpus(Options),
}

#[derive(Args, Debug)]
struct Options {
    /// Agents to ask, as address:port.
    #[arg(long, env = "FOREBAY_AGENTS", value_delimiter = ',')]
    agents: Vec<SocketAddr>,
    /// Folder of Kubernetes manifests to find the agents' Pods in, instead.
    #[arg(long, env = "FOREBAY_RESOURCES", conflicts_with = "agents")]
    resources: Option<PathBuf>,
    /// Label of the agents' Pods in that folder.
    #[arg(long, default_value = "app.kubernetes.io/name=forebay-agent")]
    agent_selector: agents::Selector,
    /// The agents' port in that folder.
    #[arg(long, default_value_t = 9550)]
    agent_port: u16,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show again whenever a second has passed, until interrupted.
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    /// One document; with --watch one a line.
    Json,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Nodes,
    Pods,
    Gpus,
}

const REDRAW: Duration = Duration::from_secs(1);
/// How long a one-time question waits for the slowest agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// As clap's own.
const USAGE: u8 = 2;
const DEGRADED: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (subject, options) = match Cli::parse().command {
        Command::Nodes(options) => (Subject::Nodes, options),
        Command::Pods(options) => (Subject::Pods, options),
        Command::Gpus(options) => (Subject::Gpus, options),
    };
    if options.agents.is_empty() && options.resources.is_none() {
        let _ = writeln!(
            io::stderr(),
            "forebay: no agents to ask: give --agents ADDRESS:PORT[,…] or --resources DIR"
        );
        return ExitCode::from(USAGE);
    }
    match show(subject, &options).await {
        Ok(code) => code,
        // Whoever read us has enough (`forebay pods | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(subject: Subject, options: &Options) -> anyhow::Result<ExitCode> {
    let addresses = agents::addresses(options).await?;
    let mut following = agents::Following::start(&addresses);
    let mut view = View::new(&addresses);
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    while !view.is_complete() {
        tokio::select! {
            Some((agent, event)) = following.next() => view.apply(agent, event),
            () = &mut deadline => {
                view.give_up(PATIENCE);
                break;
            }
        }
    }
    print(subject, options, &view)?;
    if options.watch {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        redraw.reset();
        loop {
            tokio::select! {
                Some((agent, event)) = following.next() => view.apply(agent, event),
                _ = redraw.tick() => print(subject, options, &view)?,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
    }
    Ok(match view.answered() {
        0 => ExitCode::FAILURE,
        some if some < addresses.len() => ExitCode::from(DEGRADED),
        _ => ExitCode::SUCCESS,
    })
}

fn print(subject: Subject, options: &Options, view: &View) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match options.output {
        Output::Table => {
            if options.watch && out.is_terminal() {
                // Home, and erase what was there.
                write!(out, "\x1b[H\x1b[2J")?;
            }
            write!(out, "{}", table::render(subject, view))?;
        }
        Output::Json if options.watch => writeln!(out, "{}", json::render(subject, view))?,
        Output::Json => writeln!(out, "{:#}", json::render(subject, view))?,
    }
    out.flush()?;
    for (address, problem) in view.problems() {
        writeln!(io::stderr(), "forebay: agent {address}: {problem}")?;
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
