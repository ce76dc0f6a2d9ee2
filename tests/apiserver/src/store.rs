//! An API server that is shared by all tests of a process, and helpers for objects and stores.
//!
//! Each test uses its own namespace. The helpers panic on errors: they are called only by tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails by panicking")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{ApiServer, crds, open_crd};
use forebay_resources::{
    Kind, Snapshot, Store,
    cluster::{self, ClusterProvider, Interest, Selection},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Maximum wait for a condition. Long, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The shared API server, started on first use. `None` if its programs are not installed.
///
/// # Panics
/// When the API server does not start.
pub async fn shared() -> Option<&'static ApiServer> {
    static SERVER: OnceCell<Option<ApiServer>> = OnceCell::const_new();
    let start = || async {
        let server = ApiServer::start().await.expect("the API server starts")?;
        install(&server).await;
        Some(server)
    };
    SERVER.get_or_init(start).await.as_ref()
}

/// Installs the CRDs of all kinds except AgentgatewayPolicy and InferenceObjective, which some tests install later.
/// InferencePools are not validated.
///
/// # Panics
/// When the API server rejects a definition.
pub async fn install(server: &ApiServer) {
    let late = ["AgentgatewayPolicy", "InferenceObjective", "InferencePool"];
    let definitions = crds().into_iter().filter(|it| !late.contains(&it.spec.names.kind.as_str()));
    let pools = open_crd("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools");
    server.install(definitions.chain([pools])).await.unwrap();
}

/// Creates a namespace.
///
/// # Panics
/// When the API server rejects it.
pub async fn namespace(client: &Client, name: &str) {
    let object = json!({ "metadata": { "name": name } });
    let object: Namespace = serde_json::from_value(object).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
}

/// An API for objects given as JSON.
pub fn api(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
    namespace: &str,
) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Creates or updates an object by server-side apply. `rest` is merged into its metadata, spec and status.
///
/// # Panics
/// When the API server rejects it.
pub async fn apply(api: &Api<DynamicObject>, api_version: &str, kind: &str, name: &str, rest: Value) {
    let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name } });
    merge(&mut object, rest);
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(&object)).await.unwrap();
}

fn merge(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (name, value) in from {
                merge(to.entry(name).or_insert(Value::Null), value);
            }
        }
        (to, from) => *to = from,
    }
}

/// A store that is filled by a cluster provider.
pub fn provide(client: Client, interest: Interest) -> (Arc<Store>, ClusterProvider) {
    let store = Store::new();
    let provider = cluster::start(client, interest, store.clone());
    (store, provider)
}

/// All objects of these kinds in one namespace.
pub fn interest(kinds: impl IntoIterator<Item = Kind>, namespace: &str) -> Interest {
    let selections: BTreeSet<Selection> =
        kinds.into_iter().map(|kind| Selection::in_namespace(kind, namespace)).collect();
    Interest::new(move |_| selections.clone())
}

/// Waits until the snapshot of the store satisfies `condition`.
///
/// # Panics
/// When that does not happen within [`DEADLINE`].
pub async fn until(store: &Store, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut generations = store.subscribe();
    let satisfied = generations.wait_for(|_| {
        let snapshot = store.snapshot();
        snapshot.generation > 0 && condition(&snapshot)
    });
    if tokio::time::timeout(DEADLINE, satisfied).await.is_err() {
        panic!("{what}: not within {DEADLINE:?}; store: {:#?}", store.snapshot());
    }
    store.snapshot()
}
