//! Every task a developer or CI runs: `cargo xtask <task>`.

mod bench;
mod cluster;
mod demo;
mod ebpf;
mod image;
mod lint;
mod release;
mod run;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and checks Forebay.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what a build needs and is missing (apt packages, bpf-linker).
    Setup,
    /// Build the kernel programs to target/bpf/forebay-ebpf.o.
    Ebpf,
    /// Start everything on this machine, send traffic, compare kernel and engines.
    Demo(demo::Options),
    /// Set up, then run every test.
    Test(test::Options),
    /// Check formatting, import cycles, sizes, clippy and dependency policy.
    Lint(lint::Options),
    /// Build the programs as they are shipped: the gateway and the picker by a profile of themselves.
    Release(release::Options),
    /// Write container images of the programs (OCI archives, no container engine).
    Image(image::Options),
    /// A real one-node Kubernetes on this machine.
    Cluster(cluster::Options),
    /// Gateway API's own conformance suite, in a cluster.
    Conformance(cluster::conformance::Options),
    /// Measure against named baselines and print the ratios.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup => setup::run(),
        Task::Ebpf => ebpf::build(),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Lint(options) => lint::run(&options),
        Task::Release(options) => release::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Cluster(options) => cluster::run(&options),
        Task::Conformance(options) => cluster::conformance::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
