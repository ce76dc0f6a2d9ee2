//! Builds the fuzz targets with the coverage that libFuzzer reads.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::targets::PARTS;
use crate::run;

/// Adds the coverage of LLVM's SanitizerCoverage to the packages of the workspace. The stable compiler has it. Build scripts
/// are not linked with libFuzzer, so they get none, and dependencies get none: found inputs are those that are new to our code.
const WRAPPER: &str = r#"#!/bin/sh
# Written by `cargo xtask fuzz`. Cargo calls it with the compiler and its arguments.
case " $* " in
  *" build_script_build "*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
"#;

/// Folder of everything that is built and found.
pub(super) fn folder() -> PathBuf {
    run::root().join("target/fuzz")
}

/// Builds all targets. Returns the folder of the programs.
pub(super) fn build() -> Result<PathBuf> {
    let folder = folder();
    let wrapper = wrapper(&folder)?;
    let mut cargo = run::cargo();
    cargo
        .args(["build", "--profile", "fuzz", "--features", "libfuzzer", "--bins", "--target-dir"])
        .arg(&folder);
    for part in PARTS {
        cargo.args(["--package", &format!("forebay-{part}-fuzz")]);
    }
    run::step("building the fuzz targets", cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper))?;
    Ok(folder.join("fuzz"))
}

/// The wrapper script. It is written only if it has changed: cargo builds again after that.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("rustc-with-coverage");
    if fs::read_to_string(&path).ok().as_deref() != Some(WRAPPER) {
        fs::write(&path, WRAPPER).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}
