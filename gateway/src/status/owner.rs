//! The Deployment of this pod, which owns the Services of Gateways. They are deleted with it.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Api, Client};

/// `None` if the pod does not exist or does not belong to a Deployment.
pub(super) async fn deployment(
    client: &Client,
    namespace: &str,
    pod: &str,
) -> kube::Result<Option<OwnerReference>> {
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).get_opt(pod).await?;
    let Some(set) = pod.and_then(|pod| controller(pod.metadata, "ReplicaSet")) else { return Ok(None) };
    let set = Api::<ReplicaSet>::namespaced(client.clone(), namespace).get_opt(&set.name).await?;
    // An owner that is not the controller: the Deployment does not manage Services.
    Ok(set.and_then(|set| controller(set.metadata, "Deployment")).map(|owner| OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..owner
    }))
}

fn controller(metadata: ObjectMeta, kind: &str) -> Option<OwnerReference> {
    metadata.owner_references?.into_iter().find(|owner| owner.controller == Some(true) && owner.kind == kind)
}
