//! Source of the objects: a folder or a cluster.

use std::{path::PathBuf, sync::Arc};

use crate::{
    cluster::{self, ClusterProvider, Interest},
    folder::{self, FolderProvider},
    store::Store,
};

/// Source of a program's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceSource {
    /// A folder of manifests.
    Folder(PathBuf),
    /// A cluster; see [`cluster::connect`].
    Cluster {
        /// `None`: the usual places.
        kubeconfig: Option<PathBuf>,
    },
}

impl ResourceSource {
    /// The source that `--resources DIR` and `--kubeconfig FILE` select: the folder if given, else the cluster.
    pub fn from_flags(resources: Option<PathBuf>, kubeconfig: Option<PathBuf>) -> Self {
        match resources {
            Some(folder) => Self::Folder(folder),
            None => Self::Cluster { kubeconfig },
        }
    }
}

/// Why no provider can be started. Not retryable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// No cluster is configured, or its configuration is unusable.
    #[error(
        "cannot read resources from a cluster: {0}; set --resources to a folder of manifests, or --kubeconfig"
    )]
    Cluster(#[from] cluster::Error),
}

/// Keeps the store up to date until dropped.
#[derive(Debug)]
pub enum Provider {
    /// See [`folder::start`].
    Folder(FolderProvider),
    /// See [`cluster::start`].
    Cluster(ClusterProvider),
}

/// Starts to fill `store`. A folder has been loaded on return; a cluster is loaded later, see [`Store::loaded`].
///
/// Must be called in a tokio runtime.
///
/// # Errors
/// If the folder cannot be read, or no cluster is configured.
pub async fn start(
    source: &ResourceSource,
    interest: Interest,
    store: Arc<Store>,
) -> Result<Provider, Error> {
    match source {
        ResourceSource::Folder(path) => Ok(Provider::Folder(folder::start(path, store).await?)),
        ResourceSource::Cluster { kubeconfig } => {
            let client = cluster::connect(kubeconfig.as_deref()).await?;
            Ok(Provider::Cluster(cluster::start(client, interest, store)))
        }
    }
}
