//! A file that keeps what was used of quotas over a restart of one process.
//!
//! The whole state is written about once a second if it has changed, off the request path: into another file, which then
//! replaces the first one. A crash loses what was used since; requests in flight are not charged, as with a store. At a
//! graceful stop nothing is lost.

mod document;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay_resources::ObjectKey;
use tokio::sync::mpsc;
use tokio::time::sleep;

use document::{Document, ReadError};

use super::state::QuotaState;
use super::stored::StoredQuota;
use super::window::unix_seconds;

/// Between two writes. Longer if a write takes long: at most a tenth of the time is spent on them.
const INTERVAL: Duration = Duration::from_secs(1);
/// A write that failed is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QuotaFileError {
    /// Another process has it.
    #[error(
        "--quota-file {0} is in use by another process; give each gateway a file of its own, or let gateways share counters with --quota-store"
    )]
    InUse(PathBuf),
    /// It cannot be opened.
    #[error(
        "--quota-file {path} cannot be opened: {source}; the gateway must be able to write in its folder"
    )]
    Open {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// The file with the counters of quotas. The task that writes it ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct QuotaFile {
    shared: Arc<Shared>,
    _open: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    is_changed: Arc<AtomicBool>,
    state: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    quotas: BTreeMap<ObjectKey, Arc<QuotaState>>,
    /// Of quotas that do not exist yet, or are not valid.
    waiting: BTreeMap<ObjectKey, StoredQuota>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QuotaFile {
    /// Whether something has to be written. Set by the counters.
    pub(super) fn changed(&self) -> Arc<AtomicBool> {
        self.shared.is_changed.clone()
    }

    /// What was stored of a quota, for its new state.
    pub(super) fn add(&self, key: &ObjectKey, state: &Arc<QuotaState>) {
        let mut kept = self.shared.lock();
        if let Some(stored) = kept.waiting.remove(key) {
            state.restore(&stored, unix_seconds());
        }
        kept.quotas.insert(key.clone(), state.clone());
    }

    /// Forgets quotas that do not exist any more.
    pub(super) fn forget(&self, exists: impl Fn(&ObjectKey) -> bool) {
        let mut kept = self.shared.lock();
        let before = kept.quotas.len() + kept.waiting.len();
        kept.quotas.retain(|key, _| exists(key));
        kept.waiting.retain(|key, _| exists(key));
        if kept.quotas.len() + kept.waiting.len() < before {
            self.shared.is_changed.store(true, Ordering::Relaxed);
        }
    }
}

/// Reads the file, and returns it with the task that writes it. A file that cannot be read is kept under another name.
pub(crate) fn open_file(
    path: &Path,
) -> Result<(QuotaFile, impl Future<Output = ()> + Send + use<>), QuotaFileError> {
    let lock = document::lock(path)?;
    let waiting = match document::read(path) {
        Ok(document) => document.quotas,
        Err(ReadError::Missing) => BTreeMap::new(),
        Err(ReadError::Invalid(why)) => {
            let aside = document::set_aside(path);
            tracing::warn!(
                path = %path.display(), kept_as = ?aside,
                "the quota file cannot be used: {why}; what was used of quotas is forgotten, and all counters begin at 0"
            );
            BTreeMap::new()
        }
    };
    let (open, closed) = mpsc::channel(1);
    let shared = Arc::new(Shared {
        is_changed: Arc::default(),
        state: Mutex::new(Kept { waiting, ..Kept::default() }),
    });
    let writer = Writer { path: path.to_owned(), shared: shared.clone(), closed, _lock: lock };
    Ok((QuotaFile { shared, _open: open }, writer.run()))
}

struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    closed: mpsc::Receiver<()>,
    /// Held until the process ends, or this.
    _lock: File,
}

impl Writer {
    /// Writes until all handles are dropped, and then once more.
    async fn run(mut self) {
        let (mut pause, mut logged) = (INTERVAL, None::<Instant>);
        loop {
            let is_closed = tokio::select! {
                _ = self.closed.recv() => true,
                () = sleep(pause) => false,
            };
            if self.shared.is_changed.swap(false, Ordering::Relaxed) {
                let start = Instant::now();
                if let Err(error) = self.write().await {
                    // The next attempt writes it.
                    self.shared.is_changed.store(true, Ordering::Relaxed);
                    if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        tracing::warn!(
                            path = %self.path.display(), %error,
                            "cannot write the quota file; what is used of quotas would not survive a restart"
                        );
                    }
                }
                pause = INTERVAL.max(start.elapsed() * 10);
            }
            if is_closed {
                return;
            }
        }
    }

    async fn write(&self) -> std::io::Result<()> {
        let (shared, path) = (self.shared.clone(), self.path.clone());
        let writing = move || {
            let document = shared.document();
            document::write(&path, &document)
        };
        tokio::task::spawn_blocking(writing).await.map_err(std::io::Error::other)?
    }
}

impl Shared {
    fn document(&self) -> Document {
        let (quotas, mut stored) = {
            let kept = self.lock();
            (kept.quotas.clone(), kept.waiting.clone())
        };
        // Each is locked for a few counters at a time.
        stored.extend(quotas.iter().map(|(key, state)| (key.clone(), state.stored())));
        stored.retain(|_, quota| !quota.counters.is_empty());
        Document { quotas: stored }
    }
}
