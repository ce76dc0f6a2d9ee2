//! Fills the store from a folder of manifests, and again whenever it changes.
//!
//! All `*.yaml`, `*.yml` and `*.json` files directly in the folder are read, in
//! the order of their names (`kubectl apply -f DIR` without `-R`). Names that
//! begin with a dot are not: editors' temporary files, and the `..data` links
//! of a mounted ConfigMap, whose own names are read through them.

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

use super::{Problem, Snapshot, Store, document};

/// A change is read once the folder has been quiet for this long ...
const QUIET: Duration = Duration::from_millis(20);
/// ... or after this many of those waits, however busy it is.
const MAX_QUIET_WAITS: u32 = 10;
/// How soon a folder that could not be read or watched is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Larger files are a problem, not read.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// More files than this are a problem; the first ones by name are read.
const MAX_FILES: usize = 10_000;

/// Why the first load failed. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource folder {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot watch the resource folder {}: {source}", path.display())]
    Watch { path: PathBuf, source: notify::Error },
}

/// Keeps the store up to date until it is dropped.
#[derive(Debug)]
pub struct FolderProvider {
    _watch: AbortOnDropHandle<()>,
}

/// Loads `dir` into `store`, and returns once that is done. A document that
/// cannot be used is in the snapshot's problems; it is no error.
pub async fn start(dir: impl Into<PathBuf>, store: Arc<Store>) -> Result<FolderProvider, Error> {
    let path = dir.into();
    let (changed, changes) = mpsc::channel(1);
    let notify = move |event: notify::Result<notify::Event>| {
        // Our own reading must not wake us.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // Full means that a wake-up is waiting already.
            let _ = changed.try_send(());
        }
    };
    // Of all that can be wrong with the folder, this says it best.
    fs::read_dir(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let watch_error = |source| Error::Watch { path: path.clone(), source };
    let mut watcher = notify::recommended_watcher(notify).map_err(watch_error)?;
    // Watching begins before reading, so that no change falls between the two.
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
    /// Hash of everything the current snapshot was made from.
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
            // What was loaded stays in use after an error: a folder that cannot
            // be read says nothing about the objects.
            match self.refresh().await {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "still the same"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "resources stay as they were");
                }
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let path = || self.path.clone();
        // The folder itself may have been replaced, which ends the old watch;
        // watching the same folder again changes nothing.
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
                Ok(text) => document::read_file(file, text, &mut snapshot),
                Err(message) => {
                    let (place, message) = (file.clone(), message.clone());
                    snapshot.problems.push(Problem { place, object: None, message });
                }
            }
        }
        for problem in snapshot.problems.iter().filter(|problem| !self.reported.contains(problem)) {
            tracing::warn!("resource left out: {problem}");
        }
        self.reported.clone_from(&snapshot.problems);
        self.store.replace(snapshot);
    }
}

/// Waits until nothing has changed for a moment, so that a file is seldom read
/// half written; a writer that renames into place never is.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    for _ in 0..MAX_QUIET_WAITS {
        match time::timeout(QUIET, changes.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// By file name: the text, or why there is none.
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
            // It went away since the listing, and its event is on the way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => drop(files.insert(name, Err(error.to_string()))),
        }
    }
    let left_out = names.len();
    if let Some(first) = names.into_iter().next() {
        files.insert(
            first,
            Err(format!("this and what follows, {left_out} files, is over the limit of {MAX_FILES}")),
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
