//! Prometheus text and readiness over HTTP.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Board, prometheus};
use forebay_service::admin::{self, PROMETHEUS_TEXT, Page};

/// Whether the first list of pods has been read and attached to.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn state(&self) -> Result<(), String> {
        if self.0.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the first list of pods is not read yet".into())
        }
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until told to stop.
pub async fn serve_http(
    listener: TcpListener,
    board: Arc<Board>,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) {
    let pages = admin::serve(listener, move |path| match path {
        "/metrics" => Some(Page::new(PROMETHEUS_TEXT, prometheus::render(&board))),
        "/readyz" => Some(Page::probe(readiness.state())),
        _ => None,
    });
    shutdown.run_until_cancelled(pages).await;
}
