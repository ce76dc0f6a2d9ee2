//! Cargo commands that build the programs and the tests.
//!
//! Each command covers the whole workspace. With fewer packages cargo would choose other features for shared
//! dependencies and build them twice.

use std::process::Command;

use crate::run;

/// Builds every program that the demo starts.
pub(crate) fn programs() -> Command {
    let mut cargo = run::cargo();
    cargo.args(["build", "--workspace", "--bins", "--lib"]);
    cargo
}

/// Builds all tests and every program that they start.
pub(crate) fn tests() -> Command {
    let mut cargo = run::cargo();
    cargo.args(["build", "--workspace", "--lib", "--bins", "--tests"]);
    cargo
}
