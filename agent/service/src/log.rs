//! The log of a program.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Default filter. The kube libraries log each failed request of a watch; the resource store logs an outage once.
const DEFAULT_FILTER: &str = "info,kube_runtime=error,kube_client=off";

/// Logs to standard error, filtered by `RUST_LOG` (default `info`). Call once, at the start of the program.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
