//! Repeated log messages: one per interval and subject.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Minimum time between two messages about one subject.
const INTERVAL: Duration = Duration::from_secs(30);
/// Maximum subjects. With more, their oldest messages may be repeated too early.
const MAX_SUBJECTS: usize = 1024;

/// Limits messages that would be logged for each request while something is broken. Only locked by failures.
#[derive(Debug)]
pub(crate) struct LogLimit<S>(Mutex<HashMap<S, Entry>>);

#[derive(Debug)]
struct Entry {
    logged: Instant,
    skipped: u64,
}

impl<S> Default for LogLimit<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Eq + Hash + Clone> LogLimit<S> {
    /// Returns the number of messages that were skipped since the last one if a message is due, and counts it as skipped
    /// otherwise.
    pub(crate) fn admit(&self, subject: &S) -> Option<u64> {
        self.admit_at(subject, Instant::now())
    }

    fn admit_at(&self, subject: &S, now: Instant) -> Option<u64> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(subject) {
            if now.duration_since(entry.logged) < INTERVAL {
                entry.skipped += 1;
                return None;
            }
            entry.logged = now;
            return Some(std::mem::take(&mut entry.skipped));
        }
        if entries.len() >= MAX_SUBJECTS {
            entries.retain(|_, entry| now.duration_since(entry.logged) < INTERVAL);
        }
        if entries.len() >= MAX_SUBJECTS {
            entries.clear();
        }
        entries.insert(subject.clone(), Entry { logged: now, skipped: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_once_per_interval_and_subject() {
        let limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!(limit.admit_at(&"a", start), Some(0));
        assert_eq!(limit.admit_at(&"a", start), None);
        assert_eq!(limit.admit_at(&"b", start), Some(0));
        assert_eq!(limit.admit_at(&"a", start + INTERVAL / 2), None);
        assert_eq!(limit.admit_at(&"a", start + INTERVAL), Some(2));
        assert_eq!(limit.admit_at(&"a", start + INTERVAL), None);
    }

    #[test]
    fn subjects_are_bounded() {
        let limit = LogLimit::default();
        let start = Instant::now();
        for subject in 0..3 * MAX_SUBJECTS {
            assert_eq!(limit.admit_at(&subject, start), Some(0));
        }
        assert!(limit.0.lock().unwrap().len() <= MAX_SUBJECTS);
    }
}
