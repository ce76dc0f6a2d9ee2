//! forebay, the command line: telemetry of the agents, and checks of an installation.
//!
//! Installed as `kubectl-forebay` it is `kubectl forebay`.

mod agents;
mod certificates;
mod check;
mod crds;
mod explain;
mod forward;
mod gateway;
mod json;
mod output;
mod table;
mod target;
mod view;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use output::ListOutput;
use tokio::time::MissedTickBehavior;
use view::View;

/// Shows requests, engines and GPUs as the node agents measure them, and checks an installation.
///
/// Exit codes: 0 success, 1 failure, 2 invalid usage. `nodes`, `pods` and `gpus`: 0 all agents responded, 1 none did,
/// 3 some did not. `check`: 1 errors were found, nothing could be checked, or the cluster is not reachable; 3
/// no errors, but something could not be checked. `explain`: 1 the request was not
/// served, or not explained.
#[derive(Debug, Parser)]
#[command(name = "forebay", version)]
struct Cli {
    #[command(flatten)]
    access: forward::Access,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show nodes and their agents.
    Nodes(Options),
    /// Show inference pods: requests counted in the kernel, metrics of the engine.
    Pods(Options),
    /// Show GPUs and their health.
    Gpus(Options),
    /// Check an installation, and print a fix for each error. Read-only.
    Check(check::Options),
    /// Send one request for a model, and show each step of its way through the gateway.
    Explain(explain::Options),
    /// Print custom resource definitions, for `kubectl apply --server-side -f -`.
    Crds(crds::Options),
    /// Print Secrets with new certificates for all components, for `kubectl apply -f -`.
    Certificates(certificates::Options),
}

#[derive(Args, Debug)]
struct Options {
    #[command(flatten)]
    agents: agents::Options,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = ListOutput::Table)]
    output: ListOutput,
    /// Refresh every second until interrupted.
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Nodes,
    Pods,
    Gpus,
}

const REDRAW: Duration = Duration::from_secs(1);
/// clap's exit code.
const USAGE: u8 = 2;
pub(crate) const DEGRADED: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { access, command } = Cli::parse();
    let result = match command {
        Command::Nodes(options) => show(Subject::Nodes, &options, &access).await,
        Command::Pods(options) => show(Subject::Pods, &options, &access).await,
        Command::Gpus(options) => show(Subject::Gpus, &options, &access).await,
        Command::Check(options) => check::run(&options, &access).await,
        Command::Explain(options) => explain::run(&options).await,
        Command::Crds(options) => crds::print(&options).map(|()| ExitCode::SUCCESS),
        Command::Certificates(options) => certificates::print(&options).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        // The reader has closed the pipe (`forebay pods | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay: {error:#}");
            if error.is::<forward::NoCluster>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

async fn show(subject: Subject, options: &Options, access: &forward::Access) -> anyhow::Result<ExitCode> {
    let (mut streams, mut view) = agents::ask(&options.agents, access).await?;
    print(subject, options, &view)?;
    if options.watch {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        redraw.reset();
        loop {
            tokio::select! {
                Some((agent, event)) = streams.next() => view.apply(agent, event),
                _ = redraw.tick() => print(subject, options, &view)?,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
    }
    Ok(match view.answered() {
        0 => ExitCode::FAILURE,
        some if some < view.agents.len() => ExitCode::from(DEGRADED),
        _ => ExitCode::SUCCESS,
    })
}

fn print(subject: Subject, options: &Options, view: &View) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match options.output {
        ListOutput::Table | ListOutput::Wide => {
            if options.watch && out.is_terminal() {
                // Cursor home, erase the screen.
                write!(out, "\x1b[H\x1b[2J")?;
            }
            let is_wide = options.output == ListOutput::Wide;
            write!(out, "{}", table::render(subject, view, is_wide))?;
        }
        ListOutput::Json if options.watch => writeln!(out, "{}", json::render(subject, view))?,
        ListOutput::Json => writeln!(out, "{:#}", json::render(subject, view))?,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reference_is_up_to_date() {
        let text = format!(
            "# forebay\n\nGenerated by `UPDATE_REFERENCE=1 cargo test --workspace reference`.\n\n{}",
            forebay_reference::flags(Cli::command()),
        );
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
        forebay_reference::check(&file, &text);
    }
}
