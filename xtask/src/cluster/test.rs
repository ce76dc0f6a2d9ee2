//! The tests that need a cluster, from the build to the last pod gone.

use std::{env, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Binaries, Channel, Cluster, binaries, network};
use crate::{image, run, setup, test};

/// Of `tests/cluster`.
const TESTS: &[&str] = &["guide", "readme", "change", "outage", "scale"];

/// Why this machine cannot run a cluster, if it cannot.
pub(crate) fn why_not() -> Option<String> {
    if !run::is_root() {
        return Some("they need root".into());
    }
    if let Err(error) = setup::for_clusters() {
        return Some(format!("{error:#}"));
    }
    // Their CRDs are Go modules, too.
    binaries::go().and_then(|()| binaries::build()).err().map(|error| format!("{error:#}"))
}

pub(crate) fn run_tests(keep: bool, filter: Option<&str>) -> Result<()> {
    let archives = image::write_for_tests(&mut test::build())?;
    let tests = build_tests()?;
    Cluster::default().during(keep, |cluster| {
        cluster.load(&archives)?;
        cluster.install_crds(Channel::Standard)?;
        let path = Binaries::find()?.search_path();
        let programs = std::iter::once(run::root().join("target/debug"));
        let path = env::join_paths(programs.chain(env::split_paths(&path)))?;
        for test in &tests {
            let mut command = network::inside(&test.to_string_lossy());
            command.current_dir(run::root().join("tests/cluster"));
            command.args(["--show-output", "--test-threads=1"]).args(filter);
            command
                .env("FOREBAY_CLUSTER", &cluster.state)
                .env("KUBECONFIG", cluster.admin())
                .env("PATH", &path);
            run::step("the tests in a real cluster", &mut command)?;
        }
        Ok(())
    })
}

/// The executables of [`TESTS`]. Started without cargo: in the cluster's network it could not fetch anything.
fn build_tests() -> Result<Vec<PathBuf>> {
    let mut build = test::build();
    build.arg("--message-format=json-render-diagnostics");
    run::say("building the tests …");
    let output = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building the tests: cargo ended with {}", output.status);
    }
    let executables = String::from_utf8_lossy(&output.stdout);
    TESTS
        .iter()
        .map(|test| {
            let messages = executables.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let executable = |message: Value| {
                let is_it = message["target"]["name"] == *test && message["target"]["kind"][0] == "test";
                is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
            };
            messages.into_iter().find_map(executable).with_context(|| format!("cargo built no test {test}"))
        })
        .collect()
}
