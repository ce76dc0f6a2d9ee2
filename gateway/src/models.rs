//! `GET /v1/models`: the models that ready endpoints of a listener's pools serve.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Request, StatusCode, header, request};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::forward::{ConnectionPool, PooledBody};
use crate::hold::UpstreamBody;
use forebay_routing::{ModelsCredential, Pool, Rewrites};

/// How long the list of a pool is cached.
const CACHE_TIME: Duration = Duration::from_secs(5);
/// Maximum time for which the failure of a pool is cached that refuses to list its models. It starts with [`CACHE_TIME`]
/// and doubles with each refusal.
const MAX_REFUSED_TIME: Duration = Duration::from_secs(60);
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
    has_endpoint: bool,
    /// Why the last endpoint whose models are missing did not list them.
    failure: Option<Failure>,
}

impl Served {
    /// Nothing is known, and an endpoint responded with an error. It probably does so again.
    fn is_refused(&self) -> bool {
        self.models.is_empty() && self.failure.as_ref().is_some_and(Failure::is_refusal)
    }

    fn add(&mut self, list: Vec<Value>) {
        for model in list {
            let Some(id) = model.get("id").and_then(Value::as_str).map(str::to_owned) else { continue };
            let parent = model.get("parent").and_then(Value::as_str).filter(|it| *it != id);
            if let Some(base) = parent.and_then(|parent| HeaderValue::from_str(parent).ok()) {
                self.bases.entry(id.clone()).or_insert(base);
            }
            self.models.entry(id).or_insert(model);
        }
    }
}

/// Why an endpoint did not list its models.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot be reached or did not respond in time")]
    Unreachable,
    #[error("responded with status {0}")]
    Status(StatusCode),
    #[error(
        "responded with status {status}; the pool's annotation forebay.dev/models-secret can name a Secret with its key"
    )]
    NotAuthorized { status: StatusCode },
    #[error(
        "responded with status {status}, and the Secret {secret} that the pool names does not exist, has no entry `api-key`, or may not be read by the gateway"
    )]
    NoCredential { status: StatusCode, secret: String },
    #[error("responded with an invalid list of models")]
    Invalid,
}

impl Failure {
    fn of_status(status: StatusCode, credential: &ModelsCredential) -> Self {
        match credential {
            _ if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Self::Status(status),
            ModelsCredential::None => Self::NotAuthorized { status },
            ModelsCredential::Missing(secret) => Self::NoCredential { status, secret: secret.clone() },
            ModelsCredential::Bearer(_) => Self::Status(status),
        }
    }

    /// The endpoint responds, and probably does so again.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(_) | Self::NotAuthorized { .. } | Self::NoCredential { .. })
    }
}

/// The models of several pools.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    models: Models,
    /// Pools whose models are missing: at least one endpoint failed, and none listed a model.
    failures: Vec<PoolFailure>,
    has_endpoint: bool,
}

/// Why models of a pool are missing.
#[derive(Debug, thiserror::Error, Serialize)]
#[error("an endpoint of pool {pool} {message}")]
pub(crate) struct PoolFailure {
    pool: String,
    message: String,
}

/// The last query of a pool.
#[derive(Debug)]
struct Cached {
    started: Instant,
    query: Query,
    /// Number of consecutive queries before this one that were refused.
    refusals: u32,
    /// What the pods were asked with.
    credential: ModelsCredential,
}

impl Cached {
    fn is_fresh(&self) -> bool {
        self.started.elapsed() < cache_time(self.refusals + u32::from(self.is_refused()))
    }

    fn is_refused(&self) -> bool {
        self.query.peek().is_some_and(|served| served.is_refused())
    }
}

/// How long a result is cached after so many consecutive refusals, including its own.
fn cache_time(refusals: u32) -> Duration {
    let doublings = refusals.saturating_sub(1).min(8);
    (CACHE_TIME * 2_u32.pow(doublings)).min(MAX_REFUSED_TIME)
}

/// The models of all pools, cached for a few seconds. Concurrent requests for a pool share one query.
#[derive(Debug)]
pub(crate) struct ModelLists {
    connections: Arc<ConnectionPool>,
    by_pool: Mutex<HashMap<Arc<str>, Cached>>,
}

/// The list object of the OpenAI API.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<&'a Value>,
    /// Not part of the OpenAI API. Without failures it is left out.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [PoolFailure],
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
    pub(crate) async fn of_pools(&self, pools: &[Arc<Pool>]) -> Listed {
        let queries: Vec<(&Arc<str>, Query)> =
            pools.iter().map(|pool| (&pool.label, self.query(pool))).collect();
        let mut listed = Listed::default();
        let models = &mut listed.models;
        for (label, query) in queries {
            let served = query.await;
            for (id, model) in &served.models {
                models.entry(id.clone()).or_insert_with(|| model.clone());
            }
            listed.has_endpoint |= served.has_endpoint;
            if let Some(failure) = served.failure.as_ref().filter(|_| served.models.is_empty()) {
                listed.failures.push(PoolFailure { pool: label.to_string(), message: failure.to_string() });
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
        listed
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
        let last = by_pool.get(&pool.label);
        let last = last.filter(|last| last.credential == pool.models_credential);
        if let Some(last) = last.filter(|last| last.is_fresh()) {
            return last.query.clone();
        }
        let refusals = last.filter(|last| last.is_refused()).map_or(0, |last| last.refusals + 1);
        let query = ask_endpoints(self.connections.clone(), pool.clone()).boxed().shared();
        let credential = pool.models_credential.clone();
        let cached = Cached { started: Instant::now(), query: query.clone(), refusals, credential };
        by_pool.insert(pool.label.clone(), cached);
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

impl Listed {
    /// Ids of the models.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// Removes models.
    pub(crate) fn hide(&mut self, hidden: &HashSet<String>) {
        self.models.retain(|id, _| !hidden.contains(id));
    }

    /// Whether any endpoint is ready.
    pub(crate) fn has_endpoint(&self) -> bool {
        self.has_endpoint
    }

    /// Why models may be missing.
    pub(crate) fn failure(&self) -> Option<&PoolFailure> {
        self.failures.first()
    }

    /// All models, as a list object. `None` if there are none.
    pub(crate) fn list(&self) -> Option<Bytes> {
        if self.models.is_empty() {
            return None;
        }
        let data = self.models.values().collect();
        let list = List { object: "list", data, errors: &self.failures };
        serde_json::to_vec(&list).ok().map(Bytes::from)
    }

    /// One model, if it is known.
    pub(crate) fn find(&self, id: &str) -> Option<Bytes> {
        serde_json::to_vec(self.models.get(id)?).ok().map(Bytes::from)
    }
}

async fn ask_endpoints(connections: Arc<ConnectionPool>, pool: Arc<Pool>) -> Arc<Served> {
    let endpoints = pool.endpoints().to_vec();
    let mut served = Served { has_endpoint: !endpoints.is_empty(), ..Served::default() };
    let mut lists = stream::iter(endpoints)
        .map(|endpoint| {
            let asked = ask_endpoint(connections.clone(), endpoint, &pool.models_credential);
            let asked = tokio::time::timeout(ENDPOINT_TIMEOUT, asked);
            async move { (endpoint, asked.await.unwrap_or(Err(Failure::Unreachable))) }
        })
        .buffer_unordered(CONCURRENCY);
    while let Some((endpoint, list)) = lists.next().await {
        match list {
            Ok(list) => served.add(list),
            Err(failure) => {
                tracing::info!(pool = &*pool.label, %endpoint, %failure, "models of an endpoint are missing from /v1/models");
                served.failure = Some(failure);
            }
        }
    }
    Arc::new(served)
}

async fn ask_endpoint(
    connections: Arc<ConnectionPool>,
    endpoint: SocketAddr,
    credential: &ModelsCredential,
) -> Result<Vec<Value>, Failure> {
    let head = head(endpoint, credential).ok_or(Failure::Unreachable)?;
    let until = Instant::now() + ENDPOINT_TIMEOUT;
    let mut reused = connections.take(endpoint);
    let (connection, response) = loop {
        let is_reused = reused.is_some();
        let mut connection = match reused.take() {
            Some(connection) => connection,
            None => connections.open(endpoint, ENDPOINT_TIMEOUT).await.map_err(|_| Failure::Unreachable)?,
        };
        match connection.send(&head, UpstreamBody::default(), until).await {
            Ok(response) => break (connection, response),
            // The endpoint closed the connection as idle at the same time.
            Err(_) if is_reused && !connection.has_received() => {}
            Err(_) => return Err(Failure::Unreachable),
        }
    };
    if !response.status.is_success() {
        return Err(Failure::of_status(response.status, credential));
    }
    let body = PooledBody::http1(connection, connections);
    let body = Limited::new(body, MAX_LIST_BYTES).collect().await.map_err(|_| Failure::Invalid)?.to_bytes();
    let list: EndpointList = serde_json::from_slice(&body).map_err(|_| Failure::Invalid)?;
    Ok(list.data)
}

/// The request with the pool's credential. Those of a client are for the pool that it asks, not for all pools of its
/// listener.
fn head(endpoint: SocketAddr, credential: &ModelsCredential) -> Option<request::Parts> {
    let mut head = Request::get("/v1/models").body(()).ok()?.into_parts().0;
    head.headers.insert(header::HOST, HeaderValue::from_str(&endpoint.to_string()).ok()?);
    if let ModelsCredential::Bearer(value) = credential {
        head.headers.insert(header::AUTHORIZATION, value.clone());
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_cached_for_longer_each_time() {
        let seconds = (0..7).map(|refusals| cache_time(refusals).as_secs());
        assert_eq!(seconds.collect::<Vec<_>>(), [5, 5, 10, 20, 40, 60, 60]);
        let refused = |status| Served {
            failure: Some(Failure::Status(status)),
            has_endpoint: true,
            ..Served::default()
        };
        let cached = |served: Served, refusals, age| {
            let query = std::future::ready(Arc::new(served)).boxed().shared();
            let _ = query.clone().now_or_never();
            Cached {
                started: Instant::now().checked_sub(Duration::from_secs(age)).unwrap(),
                query,
                refusals,
                credential: ModelsCredential::None,
            }
        };
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::BAD_GATEWAY] {
            assert!(!cached(refused(status), 0, 6).is_fresh());
            assert!(cached(refused(status), 2, 19).is_fresh());
            assert!(!cached(refused(status), 2, 21).is_fresh());
        }
        let unreachable = Served { failure: Some(Failure::Unreachable), ..Served::default() };
        assert!(!cached(unreachable, 0, 6).is_fresh());
    }
}
