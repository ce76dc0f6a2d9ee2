//! `cargo xtask picture`: the picture of the README.

use anyhow::Result;

use crate::{build, ebpf, run, setup};

/// A test makes the picture, so that it shows what a run shows.
pub(crate) fn run() -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    setup::for_tests_if_possible();
    run::step("building Forebay (a few minutes the first time)", &mut build::programs())?;
    let mut test = run::cargo();
    test.args(["test", "--workspace", "--test", "picture", "--", "--show-output"]);
    run::step("the picture .github/dashboard.png", test.env("UPDATE_REFERENCE", "1"))
}
