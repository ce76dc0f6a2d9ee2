//! Tasks of developers and CI: `cargo xtask TASK`.

mod bench;
mod build;
mod cluster;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod lint;
mod picture;
mod readme;
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
    /// Install missing build requirements (apt packages, bpf-linker).
    Setup,
    /// Build the eBPF programs into target/bpf/forebay-ebpf.o.
    Ebpf,
    /// Run agent, pickers, gateway and simulated vLLM servers on this machine, and compare their counters.
    Demo(demo::Options),
    /// Install requirements, lint, and run every test, including those in a Kubernetes cluster.
    Test(test::Options),
    /// Check formatting, import cycles, sizes, clippy and dependency policy.
    Lint(lint::Options),
    /// Build the release programs, gateway and picker with profile-guided optimisation.
    Release(release::Options),
    /// Write container images as OCI archives into target/images, without a container engine.
    Image(image::Options),
    /// Start, use and stop a one-node Kubernetes cluster on this machine.
    Cluster(cluster::Options),
    /// Run the conformance suites of Gateway API and of its inference extension, each in a cluster.
    Conformance(cluster::conformance::Options),
    /// Run every command of the README in a fresh clone, long ones with their shortest option.
    Readme(readme::Options),
    /// Take the picture of the dashboard page for the README from a run with simulators (needs root and chromium).
    Picture,
    /// Run fuzz targets with libFuzzer (`fuzz list` lists them).
    Fuzz(fuzz::Options),
    /// Run benchmarks against named baselines (`bench list` lists them).
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
        Task::Readme(options) => readme::run(&options),
        Task::Picture => picture::run(),
        Task::Fuzz(options) => fuzz::run(&options),
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
