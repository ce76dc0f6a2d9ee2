//! The folder provider and the types, by manifests in a folder.

mod documents;
mod endpoints;
mod folder;

use std::{fs, path::Path, sync::Arc};

use super::{Snapshot, Store, folder::FolderProvider};

fn write(folder: &Path, file: &str, text: &str) {
    fs::write(folder.join(file), text).unwrap();
}

async fn load(folder: &Path) -> (Arc<Store>, FolderProvider) {
    let store = Store::new();
    let provider = super::folder::start(folder, store.clone()).await.unwrap();
    (store, provider)
}

/// The snapshot of a folder that holds one file.
async fn snapshot_of(text: &str) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "all.yaml", text);
    load(folder.path()).await.0.snapshot()
}
