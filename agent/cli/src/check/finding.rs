//! One thing that was looked at, and what it is like.

use forebay_resources::ObjectKey;
use serde_json::{Value, json};

use crate::{
    json::API_VERSION,
    table::{align, header},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// Traffic may flow; or it is not known whether it does.
    Warning,
    /// Something that was asked for is not there.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where it is: an object, or all of a kind where the name is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    kind: String,
    key: ObjectKey,
}

impl Place {
    pub(super) fn new(kind: impl Into<String>, key: &ObjectKey) -> Self {
        Self { kind: kind.into(), key: key.clone() }
    }

    pub(super) fn all(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: ObjectKey::default() }
    }

    pub(super) fn named(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: ObjectKey::new("", name) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) place: Place,
    pub(super) what: String,
    /// What to do about it.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(place: Place, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, place, what: what.into(), fix: None }
    }

    pub(super) fn warning(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, place, what: what.into(), fix: Some(fix.into()) }
    }

    pub(super) fn error(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::warning(place, what, fix) }
    }

    /// Never "ok": nothing is known.
    pub(super) fn not_checked(place: Place, why: impl std::fmt::Display, fix: impl Into<String>) -> Self {
        Self::warning(place, format!("not checked: {why}"), fix)
    }
}

/// Adds that all is well where that was found.
pub(super) fn or_ok(mut findings: Vec<Finding>, ok: impl FnOnce() -> Finding) -> Vec<Finding> {
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.push(ok());
    }
    findings
}

pub(super) fn table(findings: &[Finding]) -> String {
    let mut rows = vec![header(&["LEVEL", "WHERE", "WHAT → WHAT TO DO"])];
    for Finding { level, place, what, fix } in findings {
        let place = if place.key.name.is_empty() {
            place.kind.clone()
        } else {
            format!("{} {}", place.kind, place.key)
        };
        let text = fix.as_ref().map_or_else(|| what.clone(), |fix| format!("{what} → {fix}"));
        rows.push(vec![level.name().into(), place, one_line(&text)]);
    }
    align(&rows)
}

/// What an API server says may be long and broken.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn json(findings: &[Finding]) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let items: Vec<Value> = findings
        .iter()
        .map(|Finding { level, place, what, fix }| {
            json!({
                "level": level.name(),
                "kind": place.kind,
                "namespace": some(&place.key.namespace),
                "name": some(&place.key.name),
                "message": what,
                "fix": fix,
            })
        })
        .collect();
    json!({ "apiVersion": API_VERSION, "kind": "FindingList", "items": items })
}
