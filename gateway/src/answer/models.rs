//! `GET /v1/models`: what the ready pods of a listener's pools serve.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::forward::{Connection, Pool as Connections, PooledBody};
use crate::hold::UpstreamBody;
use forebay_routing::{Pool, Rewrites};

/// How long an answer of a pool's pods is used.
const FRESH: Duration = Duration::from_secs(5);
/// Longest wait for one pod; it is left out then.
const POD_TIMEOUT: Duration = Duration::from_secs(2);
/// Pods of a pool that are asked at the same time.
const PODS_AT_ONCE: usize = 16;
/// Largest answer of a pod that is read.
const MAX_LIST_BYTES: usize = 1 << 20;

/// Model objects by their id, as the pods give them.
type Models = BTreeMap<String, Value>;
type Asking = Shared<BoxFuture<'static, Arc<Served>>>;

/// What a pool serves.
#[derive(Debug, Default)]
struct Served {
    models: Models,
    /// Of LoRA adapters: the model that they adapt.
    bases: HashMap<String, HeaderValue>,
}

/// What pools serve, asked once for all that want to know at the same time, and kept for a few seconds.
#[derive(Debug)]
pub(crate) struct ModelLists {
    connections: Arc<Connections>,
    by_pool: Mutex<HashMap<Arc<str>, (Instant, Asking)>>,
}

/// OpenAI's list object.
#[derive(Serialize)]
struct ListAnswer<'a> {
    object: &'static str,
    data: Vec<&'a Value>,
}

#[derive(Deserialize)]
struct PodList {
    data: Vec<Value>,
}

impl ModelLists {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections, by_pool: Mutex::default() }
    }

    /// The union over `pools`, with the names that their rewrites give to models of it.
    pub(crate) async fn of(&self, pools: &[Arc<Pool>]) -> Models {
        let asking: Vec<Asking> = pools.iter().map(|pool| self.asking(pool)).collect();
        let mut models = Models::new();
        for list in asking {
            for (id, model) in &list.await.models {
                models.entry(id.clone()).or_insert_with(|| model.clone());
            }
        }
        for (alias, targets) in
            pools.iter().filter_map(|pool| pool.rewrites.as_ref()).flat_map(Rewrites::exact)
        {
            let target = targets.names().find_map(|name| models.get(name.as_str()));
            if let Some(model) = target.map(|target| aliased(target, alias)) {
                models.entry(alias.to_owned()).or_insert(model);
            }
        }
        models
    }

    /// The model that `adapter` adapts, as the first pool says that serves it.
    pub(crate) async fn base_of(&self, pools: &[Arc<Pool>], adapter: &str) -> Option<HeaderValue> {
        for asking in pools.iter().map(|pool| self.asking(pool)).collect::<Vec<_>>() {
            if let Some(base) = asking.await.bases.get(adapter) {
                return Some(base.clone());
            }
        }
        None
    }

    /// Forgets the pools that no longer exist.
    pub(crate) fn retain(&self, pools: &[Arc<Pool>]) {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        by_pool.retain(|label, _| pools.iter().any(|pool| pool.label == *label));
    }

    fn asking(&self, pool: &Arc<Pool>) -> Asking {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, asking)) = by_pool.get(&pool.label)
            && asked.elapsed() < FRESH
        {
            return asking.clone();
        }
        let asking = ask_pods(self.connections.clone(), pool.clone()).boxed().shared();
        by_pool.insert(pool.label.clone(), (Instant::now(), asking.clone()));
        asking
    }
}

/// The same model under another name. A model that says nothing of its root is the root itself.
fn aliased(model: &Value, alias: &str) -> Value {
    let mut aliased = model.clone();
    if let Value::Object(members) = &mut aliased
        && let Some(id) = members.insert("id".to_owned(), alias.into())
    {
        let root = members.entry("root").or_insert(Value::Null);
        if root.is_null() {
            *root = id;
        }
    }
    aliased
}

/// All models as OpenAI lists them.
pub(crate) fn list_models(models: &Models) -> Bytes {
    let list = ListAnswer { object: "list", data: models.values().collect() };
    serde_json::to_vec(&list).map_or_else(|_| Bytes::new(), Bytes::from)
}

/// One model, if it is there.
pub(crate) fn find_model(models: &Models, id: &str) -> Option<Bytes> {
    serde_json::to_vec(models.get(id)?).ok().map(Bytes::from)
}

async fn ask_pods(connections: Arc<Connections>, pool: Arc<Pool>) -> Arc<Served> {
    let mut served = Served::default();
    let mut answers = stream::iter(pool.endpoints().to_vec())
        .map(|endpoint| {
            let asked = ask_pod(connections.clone(), endpoint);
            async move { (endpoint, tokio::time::timeout(POD_TIMEOUT, asked).await) }
        })
        .buffer_unordered(PODS_AT_ONCE);
    while let Some((endpoint, answer)) = answers.next().await {
        match answer {
            Ok(Some(list)) => {
                for model in list {
                    if let Some(id) = model.get("id").and_then(Value::as_str).map(str::to_owned) {
                        let parent = model.get("parent").and_then(Value::as_str).filter(|it| *it != id);
                        if let Some(base) = parent.and_then(|parent| HeaderValue::from_str(parent).ok()) {
                            served.bases.entry(id.clone()).or_insert(base);
                        }
                        served.models.entry(id).or_insert(model);
                    }
                }
            }
            Ok(None) | Err(_) => tracing::info!(%endpoint, "a pod does not say which models it serves"),
        }
    }
    Arc::new(served)
}

async fn ask_pod(connections: Arc<Connections>, endpoint: SocketAddr) -> Option<Vec<Value>> {
    let mut connection = match connections.take(endpoint) {
        Some(connection) => connection,
        None => Connection::open(endpoint, POD_TIMEOUT).await.ok()?,
    };
    let mut head = Request::get("/v1/models").body(()).ok()?.into_parts().0;
    let host = HeaderValue::from_str(&endpoint.to_string()).ok()?;
    head.headers.insert(header::HOST, host);
    let answer = connection.send(&head, UpstreamBody::default(), Instant::now() + POD_TIMEOUT).await.ok()?;
    if !answer.status.is_success() {
        return None;
    }
    let body = PooledBody::new(connection, connections);
    let body = Limited::new(body, MAX_LIST_BYTES).collect().await.ok()?.to_bytes();
    Some(serde_json::from_slice::<PodList>(&body).ok()?.data)
}
