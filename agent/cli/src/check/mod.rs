//! `forebay check`: errors in an installation, each with a fix. Reads only.
//!
//! Routing is judged by [`forebay_routing`], the code that the gateway serves and writes statuses with. Checks run in
//! the order in which the parts depend on each other: the first error is the most likely cause of later ones.

mod advice;
mod agents;
mod class;
mod condition;
mod finding;
mod gateways;
mod grants;
mod installation;
mod kinds;
mod models;
mod pools;
mod quotas;
mod references;
mod rewrites;
mod routes;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use self::{
    finding::{Finding, Level},
    installation::Installation,
};
use crate::{forward::Access, nearest, output::Output};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: crate::agents::Options,
    /// GatewayClass to check.
    #[arg(long, env = "FOREBAY_GATEWAY_CLASS", default_value = "forebay", value_name = "NAME")]
    gateway_class: String,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(crate) async fn run(options: &Options, access: &Access) -> anyhow::Result<ExitCode> {
    let installation = Installation::read(options, access).await?;
    let findings = findings(&installation);
    let mut out = io::stdout().lock();
    match options.output {
        Output::Table => write!(out, "{}", finding::table(&findings))?,
        Output::Json => writeln!(out, "{:#}", finding::json(&findings))?,
    }
    out.flush()?;
    Ok(exit_code(&findings))
}

/// What was not checked is not ok.
fn exit_code(findings: &[Finding]) -> ExitCode {
    let has = |level| findings.iter().any(|finding| finding.level == level);
    let is_judged = findings.iter().any(|finding| finding.level != Level::NotChecked);
    if has(Level::Error) || !is_judged {
        ExitCode::FAILURE
    } else if has(Level::NotChecked) {
        ExitCode::from(crate::DEGRADED)
    } else {
        ExitCode::SUCCESS
    }
}

fn findings(installation: &Installation) -> Vec<Finding> {
    let checks = [
        kinds::check,
        class::check,
        agents::check,
        gateways::check,
        routes::check,
        grants::check,
        pools::check,
        models::check,
        quotas::check,
        rewrites::check,
    ];
    checks.iter().flat_map(|check| check(installation)).collect()
}
