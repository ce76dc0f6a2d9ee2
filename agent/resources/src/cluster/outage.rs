//! Logs an outage once, not once per watch.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::selection::Selection;

/// Consecutive failures of a watch before it is logged: connections end in every rolling update of the API server.
const ATTEMPTS_BEFORE_REPORT: u32 = 2;

/// Failing watches and causes.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<BTreeMap<Selection, Failing>>);

#[derive(Debug)]
struct Failing {
    attempts: u32,
    /// What was logged for it.
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
    /// The API server does not respond: affects all watches.
    Unreachable(String),
    /// The API server rejects this watch.
    Refused(String),
}

impl Outage {
    pub(super) fn failed(&self, selection: &Selection, failure: Failure) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = failing.values().any(|it| it.reported == Some(Reported::Unreachable));
        let entry = failing.entry(selection.clone()).or_insert(Failing { attempts: 0, reported: None });
        entry.attempts = entry.attempts.saturating_add(1);
        if entry.attempts < ATTEMPTS_BEFORE_REPORT {
            tracing::debug!(%selection, ?failure, "watch failed");
            return;
        }
        match failure {
            Failure::Unreachable(reason) => {
                entry.reported = Some(Reported::Unreachable);
                if !is_known {
                    tracing::warn!(%reason, "API server unreachable: using the last known objects, retrying");
                }
            }
            Failure::Refused(reason) => {
                let reported = Some(Reported::Refused(reason.clone()));
                if entry.reported != reported {
                    tracing::warn!(%reason, "cannot watch {selection}");
                    entry.reported = reported;
                }
            }
        }
    }

    /// The watch works, or has been retired.
    pub(super) fn ended(&self, selection: &Selection) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.remove(selection).and_then(|entry| entry.reported) {
            Some(Reported::Unreachable)
                if !failing.values().any(|it| it.reported == Some(Reported::Unreachable)) =>
            {
                tracing::info!("API server reachable again");
            }
            Some(Reported::Refused(_)) => tracing::info!("watching {selection} again"),
            _ => {}
        }
    }
}
