//! Writes to standard output without stopping the connections to the agents.

use std::io::{self, Write as _};

use anyhow::Context as _;

use crate::INTERRUPTED;

/// Writes and flushes. While the reader of standard output takes nothing, keepalives of the streams are still answered, so
/// that the agents can count what is lost.
pub(super) async fn print(text: String) -> anyhow::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    });
    tokio::select! {
        written = writing => Ok(written.context("cannot write to standard output")??),
        _ = tokio::signal::ctrl_c() => exit(),
    }
}

/// Ends the process while standard output is blocked.
#[expect(
    clippy::disallowed_methods,
    reason = "a blocked write cannot be cancelled, and the runtime would wait for it; this command has no children or pins"
)]
fn exit() -> ! {
    std::process::exit(INTERRUPTED.into())
}
