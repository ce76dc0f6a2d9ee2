//! Writes statuses to the API server.

use forebay_resources::{Kind, ObjectKey, cluster};
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::FIELD_MANAGER;

/// Writes fields of the status if the object still has `resource_version`.
///
/// The patch replaces whole lists. If another controller has written meanwhile, the version differs and the write fails
/// with 409; the next pass starts from the newer version. False if the patch has changed nothing.
pub(super) async fn patch_status(
    client: &Client,
    kind: Kind,
    key: &ObjectKey,
    resource_version: &str,
    status: &Value,
) -> kube::Result<bool> {
    let api = cluster::api(client, kind, key);
    let patch = json!({ "metadata": { "resourceVersion": resource_version }, "status": status });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await?;
    Ok(patched.metadata.resource_version.as_deref() != Some(resource_version))
}
