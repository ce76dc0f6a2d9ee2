//! The admin endpoint: metrics, configuration, health and readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_service::admin::{self, Page};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Readiness: the resources are loaded and all listeners are open.
#[derive(Debug, Default)]
pub(crate) struct Health {
    ready: AtomicBool,
    /// The gateway is shutting down.
    draining: AtomicBool,
}

impl Health {
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Not ready from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }
}

/// Serves `/metrics`, `/config`, `/healthz` and `/readyz` until `stop`.
pub(crate) async fn serve_admin(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    config: impl Fn() -> String + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let pages = admin::serve("admin", listener, move |path, _query| match path {
        "/metrics" => Some(metrics_page(&metrics)),
        "/config" => Some(Page::new("application/json", config())),
        "/readyz" => Some(Page::probe(if health.is_ready() { Ok(()) } else { Err("not ready".into()) })),
        _ => None,
    });
    stop.run_until_cancelled(pages).await;
}

fn metrics_page(metrics: &Metrics) -> Page {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, metrics.registry()) {
        Ok(()) => Page::with_exemplars(text),
        Err(error) => Page::failed(&error),
    }
}
