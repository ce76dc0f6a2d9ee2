//! Shutdown on SIGTERM and SIGINT.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first SIGTERM or SIGINT cancels. Further signals are ignored: the drain timeout of the program
/// bounds the shutdown.
///
/// Must be called within a tokio runtime. Fails if the signal handlers cannot be installed.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let shutdown = forebay_service::shutdown::on_signal()?;
/// shutdown.cancelled().await;
/// # Ok(())
/// # }
/// ```
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}
