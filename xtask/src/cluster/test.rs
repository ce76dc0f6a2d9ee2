//! The tests that need a cluster, from the build to the last pod gone.

use std::env;

use anyhow::Result;

use super::{Binaries, Cluster, binaries, network};
use crate::{demo, image, run, setup};

/// Of `tests/cluster`.
const TESTS: &[&str] = &["guide"];

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
    run::step("building the programs", &mut demo::build())?;
    let archives = image::write(image::Profile::Dev, true)?;
    // Not by their package, for the same reason as in `demo::build`.
    let tests: Vec<&str> = TESTS.iter().flat_map(|test| ["--test", test]).collect();
    let workspace = ["test", "--workspace"];
    run::step("building the cluster's tests", run::cargo().args(workspace).args(&tests).arg("--no-run"))?;

    let cluster = Cluster::default();
    let was_up = cluster.is_up();
    cluster.up()?;
    let result = cluster.load(&archives).and_then(|()| cluster.install_crds()).and_then(|()| {
        let mut cargo = network::inside(&env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        cargo.current_dir(run::root()).args(workspace).args(&tests).args(["--offline", "--no-fail-fast"]);
        cargo.args(["--", "--show-output", "--test-threads=1"]).args(filter);
        cargo.env("FOREBAY_CLUSTER", &cluster.state).env("KUBECONFIG", cluster.admin());
        let path = Binaries::find()?.search_path();
        let programs = std::iter::once(run::root().join("target/debug"));
        cargo.env("PATH", env::join_paths(programs.chain(env::split_paths(&path)))?);
        run::step("the tests in a real cluster", &mut cargo)
    });
    if keep || was_up {
        run::say("the cluster goes on; `cargo xtask cluster down` ends it");
        return result;
    }
    result.and(cluster.down())
}
