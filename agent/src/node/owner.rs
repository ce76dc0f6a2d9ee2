//! Whether another agent will run on this node and adopt the pins.

use std::{path::PathBuf, str::FromStr, time::Duration};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use forebay_resources::{ObjectKey, cluster};

/// Timeout of the query.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The DaemonSet of this agent's pod, as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Namespace of the DaemonSet.
    pub namespace: String,
    /// Name of the DaemonSet.
    pub name: String,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ObjectKey { namespace, name } = text.parse()?;
        Ok(Self { namespace, name })
    }
}

impl Owner {
    /// Returns whether the DaemonSet still exists. If the API server does not respond within 3 s, it is assumed to exist.
    /// If it refuses the query (401, 403), the roles were deleted, and so was the DaemonSet.
    pub async fn exists(&self, kubeconfig: Option<PathBuf>) -> bool {
        let query = async {
            let client = cluster::connect(kubeconfig.as_deref()).await.ok()?;
            let daemonsets = Api::<DaemonSet>::namespaced(client, &self.namespace);
            Some(daemonsets.get_opt(&self.name).await)
        };
        match tokio::time::timeout(TIMEOUT, query).await {
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
    fn parses_namespace_and_name() {
        let owner: Owner = "forebay-system/forebay-agent".parse().unwrap();
        assert_eq!((owner.namespace.as_str(), owner.name.as_str()), ("forebay-system", "forebay-agent"));
        for bad in ["", "agent", "/agent", "a/", "a/b/c"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
