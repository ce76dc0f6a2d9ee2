//! The HTTP pages: `/metrics`, `/readyz` and `/endpoints`.

use std::{sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, Store};
use forebay_service::admin::{self, OPEN_METRICS, Page};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Metrics, endpoints::Endpoints, health};

/// What the pages show.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: ObjectKey,
}

/// Serves the pages. Dropping the future closes all connections.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    admin::serve("admin", listener, move |path| admin.page(path)).await;
}

impl Admin {
    fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(match self.metrics.text() {
                Ok(metrics) => Page::new(OPEN_METRICS, metrics),
                Err(error) => Page::failed(&error),
            }),
            "/readyz" => Some(Page::probe(if health::is_ready(&self.store, &self.pool) {
                Ok(())
            } else {
                Err(format!("InferencePool {} is not loaded", self.pool))
            })),
            "/endpoints" => Some(Page::new("application/json", format!("{:#}\n", self.endpoints_json()))),
            _ => None,
        }
    }

    fn endpoints_json(&self) -> Value {
        let milliseconds = |age: Option<Duration>| age.map(|age| age.as_secs_f64() * 1000.0);
        let endpoints: Vec<Value> = self.endpoints.endpoints().iter().map(|view| {
            json!({
                "address": view.endpoint.address,
                "pod": view.endpoint.pod.to_string(),
                "uid": view.endpoint.uid,
                "node": view.endpoint.node_name,
                "load": view.load,
                "source": view.source.name(),
                "added_waiting_seconds": view.added_waiting,
                "gpu_lost": view.gpu_lost,
                "open_picks": view.open_picks,
                "picks_not_in_kernel": view.picks_not_in_kernel,
                "kernel": { "in_flight": view.kernel_in_flight, "age_ms": milliseconds(view.kernel_age) },
                "engine": { "running": view.engine_running, "waiting": view.engine_waiting, "age_ms": milliseconds(view.engine_age) },
            })
        }).collect();
        let agents: Vec<Value> = self
            .endpoints
            .agents()
            .iter()
            .map(|agent| {
                json!({
                    "address": agent.address,
                    "node": agent.node,
                    "connected": agent.connected,
                    "frame_age_ms": milliseconds(agent.frame_age),
                })
            })
            .collect();
        json!({ "pool": self.pool.to_string(), "endpoints": endpoints, "agents": agents })
    }
}
