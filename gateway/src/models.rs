//! `GET /v1/models`: the models that ready endpoints of a listener's pools serve.

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

use crate::forward::{Connection, ConnectionPool, PooledBody};
use crate::hold::UpstreamBody;
use forebay_routing::{Pool, Rewrites};

/// How long the list of a pool is cached.
const CACHE_TIME: Duration = Duration::from_secs(5);
/// Maximum wait for one endpoint. Its models are missing after that.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum concurrent requests to the endpoints of one pool.
const CONCURRENCY: usize = 16;
/// Maximum size of the list of one endpoint.
const MAX_LIST_BYTES: usize = 1 << 20;

/// Model objects of the endpoints, by id.
type Models = BTreeMap<String, Value>;
type Query = Shared<BoxFuture<'static, Arc<Served>>>;

/// The models that a pool serves.
#[derive(Debug, Default)]
struct Served {
    models: Models,
    /// Base models of LoRA adapters, by adapter.
    bases: HashMap<String, HeaderValue>,
}

/// The models of all pools, cached for a few seconds. Concurrent requests for a pool share one query.
#[derive(Debug)]
pub(crate) struct ModelLists {
    connections: Arc<ConnectionPool>,
    by_pool: Mutex<HashMap<Arc<str>, (Instant, Query)>>,
}

/// The list object of the OpenAI API.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<&'a Value>,
}

#[derive(Deserialize)]
struct EndpointList {
    data: Vec<Value>,
}

impl ModelLists {
    pub(crate) fn new(connections: Arc<ConnectionPool>) -> Self {
        Self { connections, by_pool: Mutex::default() }
    }

    /// The models of all `pools`, and the aliases that their rewrites give to these models.
    pub(crate) async fn of_pools(&self, pools: &[Arc<Pool>]) -> Models {
        let queries: Vec<Query> = pools.iter().map(|pool| self.query(pool)).collect();
        let mut models = Models::new();
        for list in queries {
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

    /// The base model of `adapter`, from the first pool that serves it.
    pub(crate) async fn base_of(&self, pools: &[Arc<Pool>], adapter: &str) -> Option<HeaderValue> {
        for query in pools.iter().map(|pool| self.query(pool)).collect::<Vec<_>>() {
            if let Some(base) = query.await.bases.get(adapter) {
                return Some(base.clone());
            }
        }
        None
    }

    /// Removes pools that no longer exist from the cache.
    pub(crate) fn retain(&self, pools: &[Arc<Pool>]) {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        by_pool.retain(|label, _| pools.iter().any(|pool| pool.label == *label));
    }

    fn query(&self, pool: &Arc<Pool>) -> Query {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((started, query)) = by_pool.get(&pool.label)
            && started.elapsed() < CACHE_TIME
        {
            return query.clone();
        }
        let query = ask_endpoints(self.connections.clone(), pool.clone()).boxed().shared();
        by_pool.insert(pool.label.clone(), (Instant::now(), query.clone()));
        query
    }
}

/// The same model under another id. A model without `root` becomes the root of its alias.
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

/// All models, as a list object.
pub(crate) fn list_models(models: &Models) -> Bytes {
    let list = List { object: "list", data: models.values().collect() };
    serde_json::to_vec(&list).map_or_else(|_| Bytes::new(), Bytes::from)
}

/// One model, if it exists.
pub(crate) fn find_model(models: &Models, id: &str) -> Option<Bytes> {
    serde_json::to_vec(models.get(id)?).ok().map(Bytes::from)
}

async fn ask_endpoints(connections: Arc<ConnectionPool>, pool: Arc<Pool>) -> Arc<Served> {
    let mut served = Served::default();
    let mut lists = stream::iter(pool.endpoints().to_vec())
        .map(|endpoint| {
            let asked = ask_endpoint(connections.clone(), endpoint);
            async move { (endpoint, tokio::time::timeout(ENDPOINT_TIMEOUT, asked).await) }
        })
        .buffer_unordered(CONCURRENCY);
    while let Some((endpoint, list)) = lists.next().await {
        match list {
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
            Ok(None) | Err(_) => {
                tracing::info!(%endpoint, "cannot read the models of an endpoint; they are missing from /v1/models")
            }
        }
    }
    Arc::new(served)
}

async fn ask_endpoint(connections: Arc<ConnectionPool>, endpoint: SocketAddr) -> Option<Vec<Value>> {
    let mut connection = match connections.take(endpoint) {
        Some(connection) => connection,
        None => Connection::open(endpoint, ENDPOINT_TIMEOUT).await.ok()?,
    };
    let mut head = Request::get("/v1/models").body(()).ok()?.into_parts().0;
    let host = HeaderValue::from_str(&endpoint.to_string()).ok()?;
    head.headers.insert(header::HOST, host);
    let response =
        connection.send(&head, UpstreamBody::default(), Instant::now() + ENDPOINT_TIMEOUT).await.ok()?;
    if !response.status.is_success() {
        return None;
    }
    let body = PooledBody::http1(connection, connections);
    let body = Limited::new(body, MAX_LIST_BYTES).collect().await.ok()?.to_bytes();
    Some(serde_json::from_slice::<EndpointList>(&body).ok()?.data)
}
