//! Reads invalid fields so that a policy still restricts what it targets. The API server rejects most of them; a folder of
//! manifests and another version of the CRD do not.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{PolicyTargetRef, PolicyTargetSelector, TrafficPolicy};

/// Group of a target whose group is not known: that of any kind with its name.
pub const ANY_GROUP: &str = "*";

/// A target of which only the kind, and what selects the object, must be valid.
pub(in crate::types) trait Target: DeserializeOwned {
    /// Makes what is not valid less narrow.
    fn widen(entry: &mut Map<String, Value>);
}

impl Target for PolicyTargetRef {
    fn widen(_: &mut Map<String, Value>) {}
}

impl Target for PolicyTargetSelector {
    fn widen(entry: &mut Map<String, Value>) {
        let is_valid =
            |labels: &Value| labels.as_object().is_some_and(|labels| labels.values().all(Value::is_string));
        if !entry.get("matchLabels").is_some_and(is_valid) {
            entry.remove("matchLabels");
        }
    }
}

pub(in crate::types) fn targets<'de, D: Deserializer<'de>, T: Target>(value: D) -> Result<Vec<T>, D::Error> {
    let entries = match Value::deserialize(value)? {
        Value::Array(entries) => entries,
        one @ Value::Object(_) => vec![one],
        _ => Vec::new(),
    };
    Ok(entries.into_iter().filter_map(target).collect())
}

fn target<T: Target>(entry: Value) -> Option<T> {
    if let Ok(target) = T::deserialize(&entry) {
        return Some(target);
    }
    let Value::Object(mut entry) = entry else { return None };
    if !entry.get("group").is_some_and(Value::is_string) {
        entry.insert("group".into(), ANY_GROUP.into());
    }
    if !entry.get("sectionName").is_some_and(Value::is_string) {
        entry.remove("sectionName");
    }
    T::widen(&mut entry);
    T::deserialize(Value::Object(entry)).ok()
}

/// Members that are not valid are kept among the other ones.
pub(super) fn traffic<'de, D: Deserializer<'de>>(value: D) -> Result<Option<TrafficPolicy>, D::Error> {
    let members = match Value::deserialize(value)? {
        Value::Null => return Ok(None),
        Value::Object(members) => members,
        other => Map::from_iter([("traffic".to_owned(), other)]),
    };
    if let Ok(traffic) = TrafficPolicy::deserialize(Value::Object(members.clone())) {
        return Ok(Some(traffic));
    }
    let mut traffic = TrafficPolicy::default();
    for (name, value) in members {
        let one = Map::from_iter([(name.clone(), value.clone())]);
        match TrafficPolicy::deserialize(Value::Object(one)) {
            Ok(TrafficPolicy { phase, .. }) if name == "phase" => traffic.phase = phase,
            Ok(TrafficPolicy { transformation, .. }) if name == "transformation" => {
                traffic.transformation = transformation;
            }
            _ => drop(traffic.other.insert(name, value)),
        }
    }
    Ok(Some(traffic))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{AgentgatewayPolicySpec, TrafficPhase};
    use super::*;

    fn spec(value: Value) -> AgentgatewayPolicySpec {
        AgentgatewayPolicySpec::deserialize(value).unwrap()
    }

    fn targeted(refs: Value) -> Vec<(String, String, String, Option<String>)> {
        let all = spec(json!({ "targetRefs": refs })).target_refs;
        all.into_iter().map(|it| (it.group, it.kind, it.name, it.section_name)).collect()
    }

    #[test]
    fn an_invalid_target_is_still_a_target() {
        let of = |group: &str, section: Option<&str>| {
            (group.to_owned(), "Gateway".to_owned(), "g".to_owned(), section.map(str::to_owned))
        };
        let valid = json!({ "group": "a", "kind": "Gateway", "name": "g", "sectionName": "s" });
        assert_eq!(targeted(json!([valid])), [of("a", Some("s"))]);
        let invalid = json!([{ "kind": "Gateway", "name": "g" }, { "group": 1, "kind": "Gateway", "name": "g", "sectionName": [] }]);
        assert_eq!(targeted(invalid), [of(ANY_GROUP, None), of(ANY_GROUP, None)]);
        assert_eq!(targeted(valid), [of("a", Some("s"))]);
        assert_eq!(targeted(json!([{ "kind": "Gateway" }, 7, { "name": "g" }])), []);
        assert_eq!(targeted(Value::Null), []);
        let selectors = json!({ "targetSelectors": [{ "kind": "Gateway", "matchLabels": { "a": 1 } }] });
        let selectors = spec(selectors).target_selectors;
        assert_eq!(
            selectors.iter().map(|it| (&*it.group, it.match_labels.len())).collect::<Vec<_>>(),
            [(ANY_GROUP, 0)]
        );
    }

    #[test]
    fn invalid_members_of_traffic_are_kept() {
        let traffic = |value: Value| spec(json!({ "traffic": value })).traffic;
        let kept = traffic(json!({
            "phase": "PreRouting", "transformation": { "request": 7 }, "apiKeyAuthentication": { "mode": "Strict" },
        }))
        .unwrap();
        assert_eq!(kept.phase, TrafficPhase::PreRouting);
        assert_eq!(kept.other.keys().collect::<Vec<_>>(), ["apiKeyAuthentication", "transformation"]);
        let kept = traffic(json!({ "phase": "Later", "transformation": null })).unwrap();
        assert_eq!((kept.phase, &kept.other["phase"]), (TrafficPhase::PostRouting, &json!("Later")));
        assert_eq!(traffic(json!(["apiKeyAuthentication"])).unwrap().other.len(), 1);
        assert_eq!(traffic(Value::Null), None);
    }
}
