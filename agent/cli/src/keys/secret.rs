//! The Secret with keys, and how it is changed.

use std::time::Duration;

use anyhow::{anyhow, bail};
use forebay_resources::ObjectKey;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::change::Change;
use crate::forward::{Access, NoCluster};

/// Attempts of one change against other writers. At least one writer succeeds in each round.
const MAX_ATTEMPTS: u32 = 100;
/// Longest pause between two attempts.
const MAX_PAUSE_MS: u32 = 100;

/// One Secret of the cluster.
pub(super) struct Keys {
    name: ObjectKey,
    secrets: Api<Secret>,
}

impl Keys {
    pub(super) async fn connect(name: &ObjectKey, access: &Access) -> anyhow::Result<Self> {
        let client = access.client().await.map_err(|error| {
            if error.is::<NoCluster>() {
                anyhow!("no kubeconfig was found: set --kubeconfig FILE or KUBECONFIG")
            } else {
                error
            }
        })?;
        Ok(Self { name: name.clone(), secrets: Api::namespaced(client, &name.namespace) })
    }

    /// `None` if the Secret does not exist. Fails if it is not one for keys.
    pub(super) async fn read(&self) -> anyhow::Result<Option<Secret>> {
        let secret = self.secrets.get_opt(&self.name.name).await;
        let secret = secret.map_err(|error| self.failed("read", "get", &error))?;
        let kind = secret.as_ref().and_then(|secret| secret.type_.as_deref()).unwrap_or("Opaque");
        if kind != "Opaque" {
            bail!("Secret {} has the type {kind}: keys belong in a Secret of type Opaque", self.name);
        }
        Ok(secret)
    }

    /// The Secret, which must exist.
    pub(super) async fn existing(&self) -> anyhow::Result<Secret> {
        self.read().await?.ok_or_else(|| self.missing())
    }

    pub(super) fn missing(&self) -> anyhow::Error {
        anyhow!("Secret {} does not exist; `forebay keys create` makes it", self.name)
    }

    /// Reads the Secret, and writes the change that `decide` makes of it. If another writer was faster, both are done again,
    /// so that no change of another writer is lost.
    pub(super) async fn change(
        &self,
        decide: impl Fn(Option<&Secret>) -> anyhow::Result<Change>,
    ) -> anyhow::Result<Change> {
        for attempt in 0..MAX_ATTEMPTS {
            let before = self.read().await?;
            let change = decide(before.as_ref())?;
            if self.write(before.as_ref(), &change).await? {
                return Ok(change);
            }
            pause(attempt).await;
        }
        bail!(
            "Secret {} was changed by others before each of {MAX_ATTEMPTS} attempts; nothing was changed, try again",
            self.name
        )
    }

    /// Whether the Secret was as `before` until now. If not, nothing is written.
    async fn write(&self, before: Option<&Secret>, change: &Change) -> anyhow::Result<bool> {
        let written = match before {
            None => {
                let secret = serde_json::from_value(change.manifest(&self.name))?;
                self.secrets.create(&PostParams::default(), &secret).await.map(drop)
            }
            Some(before) => {
                // The API server refuses the patch if the version is another one.
                let version = &before.metadata.resource_version;
                let patch = json!({ "metadata": { "resourceVersion": version }, "data": change.data() });
                let params = PatchParams { field_manager: Some("forebay".into()), ..PatchParams::default() };
                self.secrets.patch(&self.name.name, &params, &Patch::Merge(patch)).await.map(drop)
            }
        };
        match written {
            Ok(()) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            // It was removed since.
            Err(kube::Error::Api(status)) if status.code == 404 && before.is_some() => Ok(false),
            Err(error) if before.is_some() => Err(self.failed("change", "patch", &error)),
            Err(error) => Err(self.failed("create", "create", &error)),
        }
    }

    fn failed(&self, what: &str, verb: &str, error: &kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if status.code == 403 => anyhow!(
                "cannot {what} Secret {}: {}. You need `{verb}` on secrets in its namespace",
                self.name,
                status.message
            ),
            kube::Error::Api(status) => anyhow!("cannot {what} Secret {}: {}", self.name, status.message),
            error => anyhow!("cannot {what} Secret {}: {error}", self.name),
        }
    }
}

/// Writers that failed together try again at different times.
async fn pause(attempt: u32) {
    let longest = MAX_PAUSE_MS.min(2 << attempt.min(10));
    let random = getrandom::u32().unwrap_or_default() % longest;
    tokio::time::sleep(Duration::from_millis(random.into())).await;
}
