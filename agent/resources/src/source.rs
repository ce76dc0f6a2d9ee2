//! The choice between the two providers.

use std::{path::PathBuf, sync::Arc};

use super::{
    Store,
    cluster::{self, ClusterProvider, Interest},
    folder::{self, FolderProvider},
};

/// Where a program has its objects from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The cluster that this is a pod of, or that a kubeconfig names; see [`cluster::connect`].
    Cluster { kubeconfig: Option<PathBuf> },
}

impl Source {
    /// What the flags `--resources DIR` and `--kubeconfig FILE` ask for: the
    /// folder, and without one the cluster.
    pub fn from_flags(resources: Option<PathBuf>, kubeconfig: Option<PathBuf>) -> Self {
        match resources {
            Some(folder) => Self::Folder(folder),
            None => Self::Cluster { kubeconfig },
        }
    }
}

/// Why the objects cannot be had. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] folder::Error),
    #[error(
        "no cluster to read the resources from: {0}; name a folder of manifests with --resources, or a kubeconfig with --kubeconfig"
    )]
    Cluster(#[from] cluster::Error),
}

/// Keeps the store up to date until it is dropped.
#[derive(Debug)]
pub enum Provider {
    Folder(FolderProvider),
    Cluster(ClusterProvider),
}

/// Begins to fill `store` with the folder's objects, or with those of the cluster
/// that `interest` names. The first snapshot of a folder is there on return; that of
/// a cluster comes once it has been read. Must be called in a tokio runtime.
///
/// # Errors
/// When the folder cannot be read, or no cluster is found.
pub async fn start(source: &Source, interest: Interest, store: Arc<Store>) -> Result<Provider, Error> {
    match source {
        Source::Folder(path) => Ok(Provider::Folder(folder::start(path, store).await?)),
        Source::Cluster { kubeconfig } => {
            let client = cluster::connect(kubeconfig.as_deref()).await?;
            Ok(Provider::Cluster(cluster::start(client, interest, store)))
        }
    }
}
