//! Kubernetes Events for changes of conditions, so that `kubectl describe` and event exporters show them.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_routing::CONTROLLER_NAME;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;
use tokio::time::Instant;

/// Maximum Events in a window. Pods that become ready and unready must not flood the API server.
const MAX_EVENTS: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum length of a note (`events.k8s.io/v1`).
const MAX_NOTE_BYTES: usize = 1024;
/// Maximum time for one request.
const REQUEST: Duration = Duration::from_secs(3);
/// Reasons of conditions that become good without anybody doing something.
const WAITING: [&str; 2] = ["AddressNotAssigned", "Pending"];

/// A change of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    is_bad: bool,
    /// Of the condition.
    reason: String,
    note: String,
}

/// What changed between two statuses of this controller. Nothing for a condition that was never bad.
pub(super) fn transitions(before: &Value, after: &Value) -> Vec<Transition> {
    let (before, after) = (conditions(before), conditions(after));
    let mut transitions: Vec<Transition> = Vec::new();
    for (id, now) in &after {
        let earlier = before.get(id);
        let was_bad = earlier.is_some_and(|it| it.is_bad);
        let is_new = earlier.is_none_or(|it| (it.is_bad, it.reason) != (now.is_bad, now.reason));
        let is_waiting = earlier.is_none() && WAITING.contains(&now.reason);
        if is_new && (was_bad || (now.is_bad && !is_waiting)) {
            transitions.push(now.transition(id));
        }
    }
    // Conditions of the types of this controller are removed when the problem is over.
    for (id, earlier) in
        before.iter().filter(|(id, it)| it.is_bad && id.1.contains('/') && !after.contains_key(id))
    {
        let note = format!("{}{} is over: {}", id.0, id.1, earlier.reason);
        transitions.push(Transition { is_bad: false, reason: "Resolved".into(), note });
    }
    // A pool has the same condition at each Gateway.
    let mut seen: Vec<(bool, String)> = Vec::new();
    transitions.retain(|it| {
        let what = (
            it.is_bad,
            it.note.split_once(": ").map_or_else(|| it.note.clone(), |(_, rest)| rest.to_owned()),
        );
        let is_first = !seen.contains(&what);
        seen.push(what);
        is_first
    });
    transitions
}

struct Condition<'a> {
    is_bad: bool,
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl Condition<'_> {
    fn transition(&self, (scope, kind): &(String, &str)) -> Transition {
        let colon = if self.message.is_empty() { "" } else { ": " };
        Transition {
            is_bad: self.is_bad,
            reason: self.reason.to_owned(),
            note: format!("{scope}{kind} is {}{colon}{}", self.status, self.message),
        }
    }
}

/// All conditions of this controller, by place and type.
fn conditions(status: &Value) -> BTreeMap<(String, &str), Condition<'_>> {
    let mut all = BTreeMap::new();
    collect(&mut all, "", status);
    for listener in list(status, "listeners") {
        let name = listener["name"].as_str().unwrap_or_default();
        collect(&mut all, &format!("listener {name}: "), listener);
    }
    for (entries, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        for entry in list(status, entries).filter(|entry| entry["controllerName"] == CONTROLLER_NAME) {
            let text = |name: &str| entry[reference][name].as_str().unwrap_or_default();
            let section = match text("sectionName") {
                "" => String::new(),
                section => format!(" listener {section}"),
            };
            let scope = format!("Gateway {}/{}{section}: ", text("namespace"), text("name"));
            collect(&mut all, &scope, entry);
        }
    }
    all
}

fn list<'a>(status: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    status.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn collect<'a>(all: &mut BTreeMap<(String, &'a str), Condition<'a>>, scope: &str, owner: &'a Value) {
    for condition in list(owner, "conditions") {
        let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
        // These conditions are bad if they are true.
        let kind = text("type");
        let bad = match kind {
            "Conflicted" | "PartiallyInvalid" => "True",
            own if own.contains('/') => "True",
            _ => "False",
        };
        let (status, reason, message) = (text("status"), text("reason"), text("message"));
        let condition = Condition { is_bad: status == bad, status, reason, message };
        all.insert((scope.to_owned(), kind), condition);
    }
}

/// Writes Events, at most [`MAX_EVENTS`] in [`WINDOW`].
pub(super) struct Events {
    recorder: Recorder,
    budget: Budget,
    /// The failure that was logged.
    failing: Option<String>,
}

impl Events {
    pub(super) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: CONTROLLER_NAME.into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter), budget: Budget::new(), failing: None }
    }

    /// Failures are logged: an Event repeats what the status says.
    pub(super) async fn publish(&mut self, object: &ObjectReference, transitions: &[Transition]) {
        for transition in transitions {
            if !self.budget.take() {
                return;
            }
            let mut note = transition.note.clone();
            note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
            let event = Event {
                type_: if transition.is_bad { EventType::Warning } else { EventType::Normal },
                reason: transition.reason.clone(),
                note: Some(note),
                action: "StatusChanged".into(),
                secondary: None,
            };
            let written = tokio::time::timeout(REQUEST, self.recorder.publish(&event, object)).await;
            let failure = match written {
                Ok(Ok(())) => None,
                Ok(Err(kube::Error::Api(status))) => Some(status.message.clone()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no response in time".to_owned()),
            };
            if let Some(why) = failure.as_ref().filter(|_| failure != self.failing) {
                tracing::warn!("cannot write Events: {why}; statuses are still written");
            }
            self.failing = failure;
        }
    }
}

/// A number of Events per window.
struct Budget {
    since: Instant,
    taken: u32,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), taken: 0 }
    }

    fn take(&mut self) -> bool {
        if self.since.elapsed() >= WINDOW {
            *self = Self::new();
        }
        self.taken = self.taken.saturating_add(1);
        if self.taken == MAX_EVENTS + 1 {
            tracing::warn!(
                "more than {MAX_EVENTS} Events in {WINDOW:?}: no further ones until it is over; statuses are still written"
            );
        }
        self.taken <= MAX_EVENTS
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(conditions: &Value) -> Value {
        let entry = |gateway: &str| {
            json!({
                "controllerName": CONTROLLER_NAME,
                "parentRef": { "namespace": "infra", "name": gateway },
                "conditions": conditions,
            })
        };
        json!({ "parents": [entry("a"), entry("b"), { "controllerName": "other", "conditions": conditions }] })
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": message })
    }

    fn told(before: &Value, after: &Value) -> Vec<(bool, String, String)> {
        transitions(before, after).into_iter().map(|it| (it.is_bad, it.reason, it.note)).collect()
    }

    #[test]
    fn a_problem_is_told_once_when_it_begins_and_once_when_it_ends() {
        let good = pool(&json!([condition("Accepted", "True", "Accepted", "")]));
        let bad = pool(&json!([
            condition("Accepted", "True", "Accepted", ""),
            condition("forebay.dev/NoReadyPods", "True", "NoPods", "selects no Pod"),
        ]));
        assert_eq!(told(&Value::Null, &good), []);
        let begins = (
            true,
            "NoPods".into(),
            "Gateway infra/a: forebay.dev/NoReadyPods is True: selects no Pod".into(),
        );
        assert_eq!(told(&good, &bad), std::slice::from_ref(&begins));
        assert_eq!(told(&Value::Null, &bad), [begins], "also for a new object");
        assert_eq!(told(&bad, &bad), []);
        let ends =
            (false, "Resolved".into(), "Gateway infra/a: forebay.dev/NoReadyPods is over: NoPods".into());
        assert_eq!(told(&bad, &good), [ends]);
    }

    #[test]
    fn another_reason_is_told_and_another_message_is_not() {
        let gateway = |reason: &str, message: &str| json!({ "listeners": [{ "name": "http", "conditions": [condition("Accepted", "False", reason, message)] }] });
        let told_as =
            |reason: &str| (true, reason.to_owned(), "listener http: Accepted is False: why".to_owned());
        let first = gateway("UnsupportedProtocol", "why");
        assert_eq!(told(&first, &gateway("UnsupportedProtocol", "other words")), []);
        assert_eq!(told(&first, &gateway("PortUnavailable", "why")), [told_as("PortUnavailable")]);
    }

    #[test]
    fn waiting_for_an_address_is_no_event() {
        let gateway = |status: &str, reason: &str| json!({ "conditions": [condition("Programmed", status, reason, "")] });
        let waiting = gateway("False", "AddressNotAssigned");
        assert_eq!(told(&Value::Null, &waiting), []);
        assert_eq!(told(&gateway("True", "Programmed"), &waiting).len(), 1, "it was lost");
        let over = (false, "Programmed".to_owned(), "Programmed is True".to_owned());
        assert_eq!(told(&waiting, &gateway("True", "Programmed")), [over]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_bounded() {
        let mut budget = Budget::new();
        let taken = (0..1000).filter(|_| budget.take()).count();
        assert_eq!(taken, MAX_EVENTS as usize);
        tokio::time::advance(WINDOW).await;
        assert!(budget.take());
    }
}
