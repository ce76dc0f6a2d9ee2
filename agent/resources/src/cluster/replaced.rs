//! Objects of API groups that were replaced.

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};

use crate::{
    ObjectKey, Problem,
    replaced::{REPLACED, Replaced},
};

/// Objects of older API groups in the cluster: each is a problem, because it is not served.
///
/// # Errors
/// If they cannot be listed, and why.
pub async fn replaced_objects(client: &Client) -> Result<Vec<(ObjectKey, Problem)>, String> {
    // Every user may read the groups. Only then is it known whether there is something to list.
    let groups = client.list_api_groups().await.map_err(|error| error.to_string())?;
    let mut problems = Vec::new();
    for replaced in &REPLACED {
        let Some(group) = groups.groups.iter().find(|group| group.name == replaced.group) else { continue };
        for version in &group.versions {
            let resources = client.list_api_group_resources(&version.group_version).await;
            let resources = resources.map_err(|error| error.to_string())?.resources;
            if resources.iter().any(|it| it.kind == replaced.kind && it.name == replaced.plural) {
                problems.extend(list(client, replaced, &version.version).await?);
                break;
            }
        }
    }
    Ok(problems)
}

async fn list(
    client: &Client,
    replaced: &Replaced,
    version: &str,
) -> Result<Vec<(ObjectKey, Problem)>, String> {
    let name = GroupVersionKind::gvk(replaced.group, version, replaced.kind);
    let resource = ApiResource::from_gvk_with_plural(&name, replaced.plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let objects = match api.list(&ListParams::default()).await {
        Ok(objects) => objects,
        Err(kube::Error::Api(status)) => return Err(status.message.clone()),
        Err(error) => return Err(error.to_string()),
    };
    let problem = |object: DynamicObject| {
        let key = ObjectKey {
            namespace: object.metadata.namespace.unwrap_or_default(),
            name: object.metadata.name.unwrap_or_default(),
        };
        let problem = Problem {
            place: "cluster".into(),
            object: Some(format!("{} {key}", replaced.kind)),
            message: replaced.message(),
        };
        (key, problem)
    };
    Ok(objects.into_iter().map(problem).collect())
}
