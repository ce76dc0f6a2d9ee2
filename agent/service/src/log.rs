//! The programs' log.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// To standard error, from now on: what `RUST_LOG` asks for, or `info`.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
