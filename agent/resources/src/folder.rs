//! Fills the store from a folder of manifests, and reloads it on changes.
//!
//! Reads all `*.yaml`, `*.yml` and `*.json` files directly in the folder, sorted by name (as `kubectl apply -f DIR`
//! without `-R`). Names with a leading dot are skipped: temporary files of editors, and the `..data` link of a mounted
//! ConfigMap, whose files are read by their own names.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    document,
    snapshot::{Problem, Snapshot},
    store::Store,
};

/// A change is loaded after this long without another one ...
const DEBOUNCE: Duration = Duration::from_millis(20);
/// ... or after this many such waits.
const MAX_DEBOUNCE_WAITS: u32 = 10;
/// Interval of retries while the folder cannot be read or watched.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum size of a file; larger ones are reported as problems.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Maximum number of files, in order of names; more are reported as a problem.
const MAX_FILES: usize = 10_000;

/// Why the first load failed. Not retryable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource folder {}: {source}", path.display())]
    /// The folder does not exist or is not readable.
    Read {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    #[error("cannot watch the resource folder {}: {source}", path.display())]
    /// The folder cannot be watched for changes.
    Watch {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: notify::Error,
    },
}

/// Keeps the store up to date until dropped.
#[derive(Debug)]
pub struct FolderProvider {
    _watch: AbortOnDropHandle<()>,
}

/// Loads `dir` into `store` and returns. Invalid documents are in the snapshot's problems; they are not an error.
///
/// # Errors
/// If the folder cannot be read or watched.
pub async fn start(dir: impl Into<PathBuf>, store: Arc<Store>) -> Result<FolderProvider, Error> {
    let path = dir.into();
    let (changed, changes) = mpsc::channel(1);
    let notify = move |event: notify::Result<notify::Event>| {
        // Reads of this process are events too.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // A full channel has a pending wake-up.
            let _ = changed.try_send(());
        }
    };
    // Gives a clearer error than watching does.
    fs::read_dir(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let watch_error = |source| Error::Watch { path: path.clone(), source };
    let mut watcher = notify::recommended_watcher(notify).map_err(watch_error)?;
    // Watch before reading, so that no change is missed in between.
    watcher.watch(&path, RecursiveMode::NonRecursive).map_err(watch_error)?;
    let files =
        read_folder(path.clone()).await.map_err(|source| Error::Read { path: path.clone(), source })?;
    let mut folder = Folder { path, watcher, store, loaded: None, reported: Vec::new() };
    folder.load(&files);
    Ok(FolderProvider { _watch: AbortOnDropHandle::new(tokio::spawn(folder.follow(changes))) })
}

struct Folder {
    path: PathBuf,
    watcher: RecommendedWatcher,
    store: Arc<Store>,
    /// Hash of the files of the current snapshot.
    loaded: Option<u64>,
    reported: Vec<Problem>,
}

impl Folder {
    async fn follow(mut self, mut changes: mpsc::Receiver<()>) {
        let mut failing = false;
        loop {
            if failing {
                time::sleep(RETRY).await;
            } else {
                if changes.recv().await.is_none() {
                    return;
                }
                settle(&mut changes).await;
            }
            // After an error the loaded objects stay in use.
            match self.refresh().await {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "still failing"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "cannot reload resources: using the last loaded ones, retrying");
                }
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let path = || self.path.clone();
        // A replaced folder ends its watch. Watching the same folder again has no effect.
        self.watcher
            .watch(&self.path, RecursiveMode::NonRecursive)
            .map_err(|source| Error::Watch { path: path(), source })?;
        let files = read_folder(path()).await.map_err(|source| Error::Read { path: path(), source })?;
        self.load(&files);
        Ok(())
    }

    fn load(&mut self, files: &Files) {
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let hash = Some(hasher.finish());
        if self.loaded == hash {
            return;
        }
        self.loaded = hash;
        let mut snapshot = Snapshot::default();
        for (file, text) in files {
            match text {
                Ok(text) => document::read_manifest(file, text, &mut snapshot),
                Err(message) => {
                    let (place, message) = (file.clone(), message.clone());
                    snapshot.problems.push(Problem { place, object: None, message });
                }
            }
        }
        for problem in snapshot.problems.iter().filter(|problem| !self.reported.contains(problem)) {
            tracing::warn!("invalid resource ignored: {problem}");
        }
        self.reported.clone_from(&snapshot.problems);
        self.store.replace(snapshot);
    }
}

/// Waits for a pause in changes, so that half-written files are rarely read.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    for _ in 0..MAX_DEBOUNCE_WAITS {
        match time::timeout(DEBOUNCE, changes.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Text by file name, or why it cannot be read.
type Files = BTreeMap<String, Result<String, String>>;

async fn read_folder(path: PathBuf) -> io::Result<Files> {
    tokio::task::spawn_blocking(move || read_files(&path)).await.map_err(io::Error::other)?
}

fn read_files(folder: &Path) -> io::Result<Files> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_manifest(name))
        .collect();
    names.sort();
    let mut files = Files::new();
    for name in names.drain(..names.len().min(MAX_FILES)) {
        match read_file(&folder.join(&name)) {
            Ok(text) => drop(files.insert(name, Ok(text))),
            // Deleted since the listing; its event follows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => drop(files.insert(name, Err(error.to_string()))),
        }
    }
    let skipped = names.len();
    if let Some(first) = names.into_iter().next() {
        files.insert(
            first,
            Err(format!(
                "this and all following files are ignored: {skipped} files over the limit of {MAX_FILES}"
            )),
        );
    }
    Ok(files)
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(MAX_FILE_BYTES + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
