//! Writing to the API server, by kind.

use forebay_resources::{Kind, ObjectKey, cluster};
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::FIELD_MANAGER;

/// Writes these fields of the status if the object is still of that version.
///
/// With the version it is no matter that lists of parents are replaced whole: if anybody else has written,
/// this fails with 409 and is made anew from what they wrote. False if nothing has changed by it.
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
