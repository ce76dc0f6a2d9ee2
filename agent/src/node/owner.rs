//! Whether there will be another agent on this node to adopt the pins.

use std::{path::PathBuf, str::FromStr, time::Duration};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use forebay_resources::cluster;

const PATIENCE: Duration = Duration::from_secs(3);

/// The DaemonSet that this agent is a pod of, as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("must be NAMESPACE/NAME".into()),
        }
    }
}

impl Owner {
    /// Whether it will have another pod here, as far as can be known within seconds.
    /// While the API server is away it will; once this agent may not ask any more, its
    /// roles are gone, and so is the DaemonSet.
    pub async fn stays(&self, kubeconfig: Option<PathBuf>) -> bool {
        let asking = async {
            let client = cluster::connect(kubeconfig.as_deref()).await.ok()?;
            let daemonsets = Api::<DaemonSet>::namespaced(client, &self.namespace);
            Some(daemonsets.get_opt(&self.name).await)
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Some(Ok(found))) => found.is_some_and(|it| it.metadata.deletion_timestamp.is_none()),
            Ok(Some(Err(kube::Error::Api(refusal)))) => !matches!(refusal.code, 401 | 403 | 404),
            Ok(Some(Err(_)) | None) | Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_namespace_and_a_name() {
        let owner: Owner = "forebay-system/forebay-agent".parse().unwrap();
        assert_eq!((owner.namespace.as_str(), owner.name.as_str()), ("forebay-system", "forebay-agent"));
        for bad in ["", "agent", "/agent", "a/", "a/b/c"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
