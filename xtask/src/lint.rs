//! Formatting, clippy and dependency policy.

use anyhow::Result;

use crate::run;

pub(crate) fn run() -> Result<()> {
    run::step("formatting", run::cargo().args(["fmt", "--all", "--check"]))?;
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
