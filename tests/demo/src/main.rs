//! `forebay-demo`: see `cargo xtask demo`.

mod compare;
mod conversations;
mod demo;
mod frozen;
mod guide;
mod output;
mod watch;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = demo::Options::parse();
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    // Every branch drops the harness, and with it all processes, cgroups and pins.
    let result = tokio::select! {
        result = demo::run(&options) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
