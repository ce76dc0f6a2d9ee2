//! One line in the log for each thing that goes wrong, however many watches it hits.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::Selection;

/// A watch says it is failing only from this attempt in a row on: connections end
/// in every rolling update of the API server.
const ATTEMPTS_BEFORE_REPORT: u32 = 2;

/// Which watches fail at the moment, and why.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<BTreeMap<Selection, Failing>>);

#[derive(Debug)]
struct Failing {
    attempts: u32,
    /// What was logged; `None` so far.
    reported: Option<Reported>,
}

#[derive(Debug, PartialEq, Eq)]
enum Reported {
    Unreachable,
    Refused(String),
}

/// Why a watch fails.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer: the same for all watches.
    Unreachable(String),
    /// An answer that is a refusal: for this watch only.
    Refused(String),
}

impl Outage {
    pub(super) fn failed(&self, selection: &Selection, failure: Failure) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = failing.values().any(|it| it.reported == Some(Reported::Unreachable));
        let entry = failing.entry(selection.clone()).or_insert(Failing { attempts: 0, reported: None });
        entry.attempts = entry.attempts.saturating_add(1);
        if entry.attempts < ATTEMPTS_BEFORE_REPORT {
            tracing::debug!(%selection, ?failure, "a watch has failed");
            return;
        }
        match failure {
            Failure::Unreachable(reason) => {
                entry.reported = Some(Reported::Unreachable);
                if !is_known {
                    tracing::warn!(%reason, "the API server cannot be reached; what is known of the cluster stays in use");
                }
            }
            Failure::Refused(reason) => {
                let reported = Some(Reported::Refused(reason.clone()));
                if entry.reported != reported {
                    tracing::warn!(%reason, "{selection} cannot be watched");
                    entry.reported = reported;
                }
            }
        }
    }

    /// It works, or nobody wants it any more.
    pub(super) fn ended(&self, selection: &Selection) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.remove(selection).and_then(|entry| entry.reported) {
            Some(Reported::Unreachable)
                if !failing.values().any(|it| it.reported == Some(Reported::Unreachable)) =>
            {
                tracing::info!("the API server is reached again");
            }
            Some(Reported::Refused(_)) => tracing::info!("{selection} can be watched again"),
            _ => {}
        }
    }
}
