//! The LoRA adapters that an engine holds ready.
//!
//! An engine has slots for adapters. It loads an adapter into a slot when a request for it starts, in place of the adapter
//! that was used least recently, and keeps it there when the request ends. It reports only the adapters of its requests, so
//! the others are those that ran before, as many as there are slots.

use std::collections::HashSet;

use forebay_telemetry::v1;

/// Maximum slots that are believed.
const MAX_SLOTS: usize = 256;

/// The adapters of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adapters {
    /// Adapters in slots, the one that ran last first.
    resident: Vec<String>,
    /// Adapters of requests that run or wait.
    in_use: HashSet<String>,
    /// Adapters of requests that wait.
    waiting: HashSet<String>,
    slots: usize,
    /// The engine uses more adapters than it lists.
    has_more: bool,
}

impl Adapters {
    /// After one report.
    #[cfg(test)]
    pub(crate) fn of(report: &v1::Adapters) -> Self {
        let mut adapters = Self::default();
        adapters.read(report);
        adapters
    }

    /// The engine reports its requests. Returns whether something changed.
    pub(super) fn read(&mut self, report: &v1::Adapters) -> bool {
        let before = self.clone();
        self.slots = (report.slots as usize).min(MAX_SLOTS);
        self.waiting = report.waiting.iter().cloned().collect();
        self.in_use = report.running.iter().cloned().collect();
        self.resident.retain(|name| !self.in_use.contains(name));
        self.resident.splice(0..0, report.running.iter().cloned());
        self.resident.dedup();
        self.resident.truncate(self.slots);
        self.in_use.extend(report.waiting.iter().cloned());
        self.has_more = report.omitted > 0;
        before != *self
    }

    /// Whether the adapter is in a slot.
    pub(crate) fn is_resident(&self, name: &str) -> bool {
        self.resident.iter().any(|it| it == name)
    }

    /// Whether requests for the adapter wait.
    pub(crate) fn is_waiting(&self, name: &str) -> bool {
        self.waiting.contains(name)
    }

    /// Whether one more adapter can be loaded without a wait for the end of requests.
    pub(crate) fn has_room(&self) -> bool {
        !self.has_more && self.in_use.len() < self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(running: &[&str], waiting: &[&str]) -> v1::Adapters {
        let names = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        v1::Adapters { running: names(running), waiting: names(waiting), slots: 2, omitted: 0 }
    }

    #[test]
    fn an_adapter_stays_in_its_slot_until_others_need_it() {
        let mut adapters = Adapters::default();
        assert!(adapters.read(&report(&["a"], &[])));
        assert!(adapters.read(&report(&[], &[])), "no request is left");
        assert!(adapters.is_resident("a") && adapters.has_room());
        assert!(!adapters.read(&report(&[], &[])));
        adapters.read(&report(&["b"], &[]));
        assert!(adapters.is_resident("a") && adapters.is_resident("b"));
        adapters.read(&report(&["c", "b"], &["a"]));
        assert!(!adapters.is_resident("a") && adapters.is_waiting("a") && !adapters.has_room());
    }

    /// vLLM lists the adapters of running requests as waiting, too.
    #[test]
    fn an_adapter_in_both_lists_needs_one_slot() {
        let mut adapters = Adapters::default();
        adapters.read(&report(&["a"], &["a"]));
        assert!(adapters.has_room());
        adapters.read(&v1::Adapters { omitted: 1, ..report(&["a"], &["a"]) });
        assert!(!adapters.has_room(), "what is not listed may need it");
    }
}
