//! Objects through the Kubernetes API, for tests that need more speed than kubectl.

use futures_util::{TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

/// Maximum concurrent requests.
const CONCURRENCY: usize = 32;

/// A client with administrator credentials.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// Connects with `KUBECONFIG`.
    ///
    /// # Errors
    /// When the kubeconfig is invalid.
    pub async fn connect() -> anyhow::Result<Self> {
        Ok(Self { client: forebay_resources::cluster::connect(None).await? })
    }

    fn api(&self, object: &Value) -> (String, Api<DynamicObject>) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, version) = match object["apiVersion"].as_str().unwrap_or_default().split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), text(&object["apiVersion"])),
        };
        let kind = GroupVersionKind { group, version, kind: text(&object["kind"]) };
        let resource = ApiResource::from_gvk(&kind);
        let api = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (text(&object["metadata"]["name"]), api)
    }

    /// Creates or updates an object (server-side apply).
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub async fn apply(&self, object: &Value) -> kube::Result<()> {
        let (name, api) = self.api(object);
        api.patch(&name, &PatchParams::apply("forebay-tests").force(), &Patch::Apply(object)).await.map(drop)
    }

    /// Creates many objects concurrently, including their status.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn create_all(&self, objects: impl IntoIterator<Item = Value>) -> kube::Result<()> {
        stream::iter(objects.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |object| self.create(object))
            .await
    }

    async fn create(&self, object: Value) -> kube::Result<()> {
        let (name, api) = self.api(&object);
        let made: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &made).await?;
        if let Some(status) = object.get("status") {
            let patch = Patch::Merge(json!({ "status": status }));
            api.patch_status(&name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Deletes an object without a grace period. A missing object is not an error.
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub async fn delete(&self, object: &Value) -> kube::Result<()> {
        let (name, api) = self.api(object);
        match api.delete(&name, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }

    /// Deletes many objects concurrently. A single collection request would exceed the request timeout of the API server.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn delete_all(&self, objects: impl IntoIterator<Item = Value>) -> kube::Result<()> {
        stream::iter(objects.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, async |object| self.delete(&object).await)
            .await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// Also when the object does not exist.
    pub async fn get(&self, object: &Value) -> kube::Result<Value> {
        let (name, api) = self.api(object);
        serde_json::to_value(api.get(&name).await?).map_err(kube::Error::SerdeError)
    }
}
