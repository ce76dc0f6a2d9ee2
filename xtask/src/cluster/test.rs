//! Runs the tests that need the cluster.

use std::{env, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Binaries, Channel, Cluster, binaries, crds::GATEWAY_API_VERSION, network};
use crate::{build, image, run, setup};

/// Test targets of `tests/cluster`.
const TESTS: &[&str] = &["guide", "readme", "change", "outage", "scale"];

/// Why the cluster cannot run on this machine; `None` if it can.
pub(crate) fn why_unavailable() -> Option<String> {
    if !run::is_root() {
        return Some("root privileges are required".into());
    }
    if let Err(error) = setup::for_clusters() {
        return Some(format!("{error:#}"));
    }
    // The CRDs also come from Go modules.
    binaries::require_go().and_then(|()| binaries::build()).err().map(|error| format!("{error:#}"))
}

pub(crate) fn run_tests(keep: bool, filter: Option<&str>) -> Result<()> {
    let archives = image::write_for_tests(&mut build::tests())?;
    let tests = build_tests()?;
    Cluster::default().during(keep, |cluster| {
        cluster.load(&archives)?;
        cluster.install_crds(Channel::Standard, GATEWAY_API_VERSION)?;
        let path = Binaries::find()?.search_path();
        let programs = std::iter::once(run::root().join("target/debug"));
        let path = env::join_paths(programs.chain(env::split_paths(&path)))?;
        for test in &tests {
            let mut command = network::command(&test.to_string_lossy());
            command.current_dir(run::root().join("tests/cluster"));
            command.args(["--show-output", "--test-threads=1"]).args(filter);
            command
                .env("FOREBAY_CLUSTER", &cluster.state)
                .env("KUBECONFIG", cluster.admin())
                .env("PATH", &path);
            run::step("tests in the Kubernetes cluster", &mut command)?;
        }
        Ok(())
    })
}

/// Executables of [`TESTS`]. They are started without cargo, because the network namespace of the cluster has no access
/// to registries.
fn build_tests() -> Result<Vec<PathBuf>> {
    let mut build = build::tests();
    build.arg("--message-format=json-render-diagnostics");
    run::say("building the tests …");
    let output = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building the tests: cargo failed with {}", output.status);
    }
    let executables = String::from_utf8_lossy(&output.stdout);
    TESTS
        .iter()
        .map(|test| {
            let messages = executables.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let executable = |message: Value| {
                let is_wanted = message["target"]["name"] == *test && message["target"]["kind"][0] == "test";
                is_wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
            };
            messages
                .into_iter()
                .find_map(executable)
                .with_context(|| format!("cargo built no test target {test}"))
        })
        .collect()
}
