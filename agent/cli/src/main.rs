//! forebay, the command line: telemetry of the agents, and checks of an installation.
//!
//! Installed as `kubectl-forebay` it is `kubectl forebay`.

mod agents;
mod certificates;
mod check;
mod crds;
mod dashboard;
mod duration;
mod explain;
mod fleet;
mod format;
mod forward;
mod gateway;
mod json;
mod json_schema;
mod keys;
mod labels;
mod later;
mod list;
mod manual;
mod nearest;
mod output;
mod recording;
mod requests;
mod scope;
mod signals;
mod sort;
mod source;
mod table;
mod target;
mod top;
mod usage;
mod view;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

/// Shows requests, engines and GPUs as the node agents measure them, and checks an installation.
///
/// Exit codes: 0 success, 1 failure, 2 invalid usage. `nodes`, `pods`, `gpus` and `requests`: 0 all agents responded, 1
/// none did, 3 some did not, or do not see requests (`requests`). `record`: 1 no agent responded. `check`: 1 errors were found, nothing could be checked, or the cluster is not reachable; 3
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
    Nodes(list::Options),
    /// Show inference pods: requests counted in the kernel, metrics of the engine.
    Pods(list::ScopedOptions),
    /// Show GPUs and their health.
    Gpus(list::ScopedOptions),
    /// Watch pods and GPUs in the terminal: load, latencies, verdicts. Press ? for the keys.
    Top(top::Options),
    /// Serve a page with models, pools, pods and GPUs on this machine, live, and a box to send prompts.
    ///
    /// Prints the address of the page, with a secret of this run behind `#`. Nothing is installed in the cluster. The page is
    /// served on loopback only; from another machine, use `ssh -L PORT:127.0.0.1:PORT` with the same port on both sides.
    Dashboard(dashboard::Options),
    /// Show requests as they end, one line each: status, TTFT, duration, bytes and chunks, measured in the kernel.
    ///
    /// Of the pods of all agents that run at the start, in the order in which the agents report them. TIME is the end of the
    /// request in UTC, BYTES are head and body of the response as sent, CHUNKS its chunks with data (one event of a stream
    /// each, unless merged). A value that was not seen is `-`. Lost requests are counted on standard error, and with -o json
    /// also in documents of kind RequestsDropped.
    Requests(requests::Options),
    /// Record the telemetry of the agents into a file, for --replay. It has no prompts and no responses.
    Record(recording::Options),
    /// Check an installation, and print a fix for each error. Read-only.
    Check(check::Options),
    /// Send one request for a model, and show each step of its way through the gateway.
    Explain(explain::Options),
    /// Manage the API keys that the gateway asks for, in a Secret.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Sum up what requests used: tokens and costs by key, group, model or day. Reads the gateway's usage database.
    Usage(usage::Options),
    /// Print custom resource definitions, for `kubectl apply --server-side -f -`.
    Crds(crds::Options),
    /// Print Secrets with new certificates for all components, for `kubectl apply -f -`.
    Certificates(certificates::Options),
    /// Print the JSON Schema of what -o json prints.
    Schema,
    /// Print a completion script, such as for `source <(forebay completions bash)`.
    Completions(manual::CompletionOptions),
    /// Write man pages into a folder.
    Man(manual::ManOptions),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Nodes,
    Pods,
    Gpus,
}

/// clap's exit code.
const USAGE: u8 = 2;
pub(crate) const DEGRADED: u8 = 3;
/// The shell's exit code of a program that was interrupted: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { access, command } = Cli::parse();
    let result = match command {
        Command::Nodes(options) => list::show(Subject::Nodes, &options, None, &access).await,
        Command::Pods(options) => list::show_scoped(Subject::Pods, &options, &access).await,
        Command::Gpus(options) => list::show_scoped(Subject::Gpus, &options, &access).await,
        Command::Top(options) => top::run(&options, &access).await,
        Command::Dashboard(options) => dashboard::run(&options, &access).await,
        Command::Requests(options) => requests::run(&options, &access).await,
        Command::Record(options) => recording::run(&options, &access).await,
        Command::Check(options) => check::run(&options, &access).await,
        Command::Explain(options) => explain::run(&options).await,
        Command::Keys(command) => keys::run(&command, &access).await,
        Command::Usage(options) => usage::run(&options).await.map(|()| ExitCode::SUCCESS),
        Command::Crds(options) => crds::print(&options).map(|()| ExitCode::SUCCESS),
        Command::Schema => json_schema::print().map(|()| ExitCode::SUCCESS),
        Command::Completions(options) => {
            manual::completions(&options, Cli::command()).map(|()| ExitCode::SUCCESS)
        }
        Command::Man(options) => manual::man(&options, Cli::command()).map(|()| ExitCode::SUCCESS),
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
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
