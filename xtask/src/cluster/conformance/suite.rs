//! The test program of a suite, built once from its Go module.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::super::binaries;
use crate::run;

pub(super) struct Program {
    /// Folder in the cache.
    pub(super) name: &'static str,
    /// The Go module with the function `RunConformance`.
    pub(super) module: &'static str,
    pub(super) version: &'static str,
    /// Further requirements: module and version.
    pub(super) requires: &'static [(&'static str, &'static str)],
}

impl Program {
    /// Path of the program.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let folder = binaries::cache()?.join(format!("{}-{}", self.name, self.version));
        let program = folder.join("conformance.test");
        if program.is_file() {
            return Ok(program);
        }
        let Self { module, version, .. } = self;
        let work = folder.join("suite-source");
        fs::create_dir_all(&work)?;
        let more: String =
            self.requires.iter().map(|(module, version)| format!("\t{module} v{version}\n")).collect();
        fs::write(
            work.join("go.mod"),
            format!("module suite\n\ngo 1.26.0\n\nrequire (\n\t{module} v{version}\n{more})\n"),
        )?;
        fs::write(
            work.join("conformance_test.go"),
            format!(
                "package suite\n\nimport (\n\t\"testing\"\n\n\t\"{module}\"\n)\n\nfunc TestConformance(t *testing.T) {{ conformance.RunConformance(t) }}\n"
            ),
        )?;
        run::quiet(Command::new("go").args(["mod", "tidy"]).current_dir(&work))?;
        go(&work, &["test", "-c", "-o"], &program, &format!("building {}", self.name))?;
        fs::remove_dir_all(&work)?;
        Ok(program)
    }
}

/// Runs `go` without cgo; `output` and the package of `folder` are its last arguments.
pub(super) fn go(folder: &Path, args: &[&str], output: &Path, what: &str) -> Result<()> {
    let unfinished = output.with_extension("unfinished");
    let mut go = Command::new("go");
    go.current_dir(folder).env("CGO_ENABLED", "0").args(args).arg(&unfinished).arg(".");
    run::step(what, &mut go)?;
    fs::rename(&unfinished, output).with_context(|| format!("cannot write {}", output.display()))
}
