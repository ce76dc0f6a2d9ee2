//! forebay, the command line: what the nodes' agents know.
//!
//! Also found by kubectl, as `kubectl forebay`, when installed as `kubectl-forebay`.

mod agents;
mod crds;
mod forward;
mod json;
mod table;
mod view;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay_agent::tls::{self, Identity};
use tokio::time::MissedTickBehavior;
use view::View;

/// Shows what is measured on the nodes: requests, engines, GPUs.
///
/// Exit codes: 0 all agents answered, 1 none did or the output failed, 2 wrong
/// usage, 3 some agents did not answer.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    access: forward::Access,
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
    /// Print custom resource definitions, for `kubectl apply --server-side -f -`.
    Crds(crds::Options),
}

#[derive(Args, Debug)]
struct Options {
    /// Agents to ask, as address:port [default: those of the cluster, through its API server].
    #[arg(long, env = "FOREBAY_AGENTS", value_delimiter = ',')]
    agents: Vec<SocketAddr>,
    /// Folder of Kubernetes manifests to find the agents' Pods in, instead.
    #[arg(long, env = "FOREBAY_RESOURCES", conflicts_with = "agents")]
    resources: Option<PathBuf>,
    /// Label of the agents' Pods.
    #[arg(long, default_value = "app.kubernetes.io/name=forebay-agent")]
    agent_selector: agents::Selector,
    /// The agents' port.
    #[arg(long, default_value_t = 9550)]
    agent_port: u16,
    /// Certificate to show the agents; with --tls-key and --tls-ca.
    #[arg(long)]
    tls_cert: Option<PathBuf>,
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// Authority that the agents' certificates are of.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show again whenever a second has passed, until interrupted.
    #[arg(short, long)]
    watch: bool,
}

impl Options {
    fn tls(&self) -> Result<Option<Arc<Identity>>, tls::Error> {
        let [certificate, key, authority] = [&self.tls_cert, &self.tls_key, &self.tls_ca].map(Clone::clone);
        Identity::from_flags(certificate, key, authority, "--tls-cert, --tls-key and --tls-ca")
    }
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
    let Cli { access, command } = Cli::parse();
    let result = match command {
        Command::Nodes(options) => show(Subject::Nodes, &options, &access).await,
        Command::Pods(options) => show(Subject::Pods, &options, &access).await,
        Command::Gpus(options) => show(Subject::Gpus, &options, &access).await,
        Command::Crds(options) => crds::print(&options).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        // Whoever read us has enough (`forebay pods | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay: {error:#}");
            if error.is::<forward::NoCluster>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

async fn show(subject: Subject, options: &Options, access: &forward::Access) -> anyhow::Result<ExitCode> {
    let (targets, forwarding) = agents::targets(options, access).await?;
    let tls = options.tls()?.or_else(|| forwarding.tls.clone());
    let mut following = agents::Following::start(&targets, tls.as_ref());
    let mut view = View::new(&targets);
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
        some if some < targets.len() => ExitCode::from(DEGRADED),
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
    for (agent, problem) in view.problems() {
        writeln!(io::stderr(), "forebay: agent {agent}: {problem}")?;
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
