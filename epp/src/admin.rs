//! The HTTP pages: `/metrics`, `/readyz`, and `/endpoints` and `/debug/picks`, which need the name of a pool if there may be
//! several: `/endpoints/NAMESPACE/NAME` or `/endpoints?pool=NAMESPACE/NAME`.

use std::{sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, Store};
use forebay_service::admin::{self, OPEN_METRICS, Page};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    AgentView, health,
    pools::{PoolScope, Pools, ServedPool},
    schedule::Scheduler,
};

/// What the pages show.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) pools: Arc<Pools>,
    pub(crate) store: Arc<Store>,
    pub(crate) scope: PoolScope,
}

/// Serves the pages. Dropping the future closes all connections.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    admin::serve("admin", listener, move |path, query| admin.page(path, query)).await;
}

impl Admin {
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page> {
        match path {
            "/metrics" => Some(match self.pools.metrics().text() {
                Ok(metrics) => Page::new(OPEN_METRICS, metrics),
                Err(error) => Page::failed(&error),
            }),
            "/readyz" => Some(Page::probe(if health::is_ready(&self.store, &self.scope) {
                Ok(())
            } else {
                Err(match &self.scope {
                    PoolScope::One(pool) => format!("InferencePool {pool} is not loaded"),
                    PoolScope::Namespaces(_) | PoolScope::All => "the resources are not loaded".to_owned(),
                })
            })),
            _ => self.page_of_pool(path, query),
        }
    }

    /// A page about one pool, or a list of the pools. `None` if there is no such page or pool.
    fn page_of_pool(&self, path: &str, query: Option<&str>) -> Option<Page> {
        let (page, name) = match path.strip_prefix("/debug/picks") {
            Some(name) => (picks_json as fn(&ServedPool, &[AgentView]) -> Value, name),
            None => (endpoints_json as _, path.strip_prefix("/endpoints")?),
        };
        let directory = self.pools.directory();
        let asked = query.and_then(pool_in);
        let pool = match (name, &self.scope) {
            ("", _) if asked.is_some() => asked?,
            ("", PoolScope::One(only)) => only.clone(),
            ("", _) => {
                let names: Vec<String> = directory.pools().map(|(key, _)| key.to_string()).collect();
                return Some(json_page(&json!({ "pools": names })));
            }
            (name, _) => key_of(name.strip_prefix('/')?)?,
        };
        let served = directory.get(&pool)?;
        Some(json_page(&page(served, &self.pools.agents().views())))
    }
}

/// The pool of a query `pool=NAMESPACE/NAME`.
fn pool_in(query: &str) -> Option<ObjectKey> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("pool="))?;
    key_of(&value.replace("%2F", "/").replace("%2f", "/"))
}

fn key_of(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectKey::new(namespace, name))
}

fn picks_json(pool: &ServedPool, _: &[AgentView]) -> Value {
    let scheduler = &pool.scheduler;
    json!({ "pool": scheduler.pool().to_string(), "picks": scheduler.recent_picks() })
}

fn endpoints_json(pool: &ServedPool, agents: &[AgentView]) -> Value {
    let scheduler = &pool.scheduler;
    let agents: Vec<Value> = agents
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
    json!({ "pool": scheduler.pool().to_string(), "endpoints": endpoints(scheduler), "agents": agents })
}

fn milliseconds(age: Option<Duration>) -> Option<f64> {
    age.map(|age| age.as_secs_f64() * 1000.0)
}

fn endpoints(scheduler: &Scheduler) -> Vec<Value> {
    let views = scheduler.endpoints().endpoints();
    views
        .iter()
        .map(|view| {
            json!({
                "address": view.endpoint.address,
                "pod": view.endpoint.pod.to_string(),
                "uid": view.endpoint.uid,
                "node": view.endpoint.node_name,
                "load": view.load,
                "source": view.source.name(),
                "added_waiting_seconds": view.added_waiting,
                "gpu_lost": view.gpu_lost,
                "failing": view.failing,
                "liveness": view.liveness.map(|liveness| json!({
                    "state": liveness.state_name(),
                    "reason": liveness.reason_name(),
                    "since_ms": milliseconds(view.liveness_age),
                })),
                "avoided_because": view.avoided_because(),
                "prefix": {
                    "predicted_hit_bytes": view.prefix_hits.predicted_bytes,
                    "measured_hit_bytes": view.prefix_hits.measured_bytes,
                    "belief": view.prefix_belief,
                },
                "open_picks": view.open_picks,
                "picks_not_in_kernel": view.picks_not_in_kernel,
                "kernel": { "in_flight": view.kernel_in_flight, "age_ms": milliseconds(view.kernel_age) },
                "engine": { "running": view.engine_running, "waiting": view.engine_waiting, "age_ms": milliseconds(view.engine_age) },
            })
        })
        .collect()
}

fn json_page(value: &Value) -> Page {
    Page::new("application/json", format!("{value:#}\n"))
}
