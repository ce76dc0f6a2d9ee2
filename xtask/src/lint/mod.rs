//! Formatting, clippy, dependency policy, import cycles, sizes, and words.

mod imports;
mod sizes;
mod sources;
mod words;

use anyhow::{Result, bail};

use self::sources::Package;
use crate::run;

#[derive(clap::Args, Debug, Default)]
pub(crate) struct Options {
    /// Check import cycles, sizes and words only: seconds instead of minutes.
    #[arg(long)]
    sources: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.sources {
        return sources();
    }
    run::step("formatting", run::cargo().args(["fmt", "--all", "--check"]))?;
    sources()?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run::step("clippy", run::cargo().args(clippy))?;
    if run::succeeds(run::cargo().args(["deny", "--version"])) {
        run::step(
            "dependency policy",
            run::cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
        )?;
    } else {
        run::say("skipped: dependency policy (cargo-deny is not installed; `cargo install cargo-deny`)");
    }
    Ok(())
}

/// Checks of the source text that no compiler does.
fn sources() -> Result<()> {
    let packages = sources::packages(&run::root())?;
    let mut errors = Vec::new();
    for package in &packages {
        errors.extend(imports::cycles(package));
        errors.extend(sizes::too_large(package));
    }
    for hint in words::hints(&packages) {
        run::say(&hint);
    }
    let files: usize = packages.iter().map(|package| package.files.len()).sum();
    if errors.is_empty() {
        run::say(&format!(
            "import cycles and sizes: none in {files} files of {} packages",
            packages.iter().filter(|package: &&Package| !package.files.is_empty()).count()
        ));
        return Ok(());
    }
    for error in &errors {
        run::say(error);
    }
    bail!("{} import cycles or oversized files and functions", errors.len())
}
