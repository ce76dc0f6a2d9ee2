//! Metrics and readiness over HTTP.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{MetricsOptions, Publisher, prometheus};
use forebay_service::admin::{self, OPEN_METRICS, Page};

/// Whether the cgroups were listed once: each pod is attached or published with the reason why not.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// The agent stays ready from now on.
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn state(&self) -> Result<(), String> {
        if self.0.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the pods of this node or their cgroups are not listed yet; the log has the reason".into())
        }
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until `shutdown`.
pub async fn serve_http(
    listener: TcpListener,
    publisher: Arc<Publisher>,
    metrics: MetricsOptions,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) {
    let registry = Arc::new(prometheus::registry(publisher, metrics));
    let pages = admin::serve("admin", listener, move |path, _query| match path {
        "/metrics" => Some(match prometheus::text(&registry) {
            Ok(metrics) => Page::new(OPEN_METRICS, metrics),
            Err(error) => Page::failed(&error),
        }),
        "/readyz" => Some(Page::probe(readiness.state())),
        _ => None,
    });
    shutdown.run_until_cancelled(pages).await;
}
