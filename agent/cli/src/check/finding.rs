//! One result of a check.

use forebay_resources::ObjectKey;
use serde_json::{Value, json};

use super::advice::Advice;
use crate::{
    json::API_VERSION,
    table::{align, header},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// The state is unknown: the objects could not be read.
    NotChecked,
    /// Traffic may flow, or not as intended.
    Warning,
    /// Something that the resources ask for does not work.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not-checked",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The object of a finding; all objects of a kind if the name is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) key: ObjectKey,
}

impl Object {
    pub(super) fn new(kind: impl Into<String>, key: &ObjectKey) -> Self {
        Self { kind: kind.into(), key: key.clone() }
    }

    pub(super) fn all(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: ObjectKey::default() }
    }

    /// A cluster-scoped object.
    pub(super) fn named(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: ObjectKey::new("", name) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) object: Object,
    /// Reason of the status condition that says the same, if there is one.
    pub(super) reason: Option<String>,
    pub(super) message: String,
    /// What to do; `None` if nothing.
    pub(super) fix: Option<Advice>,
}

impl Finding {
    pub(super) fn ok(object: Object, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, object, reason: None, message: message.into(), fix: None }
    }

    pub(super) fn warning(object: Object, message: impl Into<String>, fix: impl Into<Advice>) -> Self {
        Self { level: Level::Warning, fix: Some(fix.into()), ..Self::ok(object, message) }
    }

    pub(super) fn error(object: Object, message: impl Into<String>, fix: impl Into<Advice>) -> Self {
        Self { level: Level::Error, ..Self::warning(object, message, fix) }
    }

    pub(super) fn not_checked(object: Object, why: impl std::fmt::Display, fix: impl Into<Advice>) -> Self {
        Self { level: Level::NotChecked, ..Self::warning(object, format!("not checked: {why}"), fix) }
    }

    pub(super) fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

/// Adds `ok` if all findings are ok.
pub(super) fn or_ok(mut findings: Vec<Finding>, ok: impl FnOnce() -> Finding) -> Vec<Finding> {
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.push(ok());
    }
    findings
}

pub(super) fn table(findings: &[Finding]) -> String {
    let mut rows = vec![header(&["LEVEL", "OBJECT", "MESSAGE → FIX"])];
    for Finding { level, object, message, fix, .. } in findings {
        let object = if object.key.name.is_empty() {
            object.kind.clone()
        } else {
            format!("{} {}", object.kind, object.key)
        };
        let text = fix.as_ref().map_or_else(|| message.clone(), |fix| format!("{message} → {fix}"));
        rows.push(vec![level.name().into(), object, one_line(&text)]);
    }
    align(&rows)
}

/// Messages of an API server may have several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn json(findings: &[Finding]) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let items: Vec<Value> = findings
        .iter()
        .map(|Finding { level, object, reason, message, fix }| {
            json!({
                "level": level.name(),
                "kind": object.kind,
                "namespace": some(&object.key.namespace),
                "name": some(&object.key.name),
                "reason": reason,
                "message": message,
                "fix": fix.as_ref().map(ToString::to_string),
                "command": fix.as_ref().and_then(Advice::command),
            })
        })
        .collect();
    json!({ "apiVersion": API_VERSION, "kind": "FindingList", "items": items })
}
