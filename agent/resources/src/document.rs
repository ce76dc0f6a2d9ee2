//! Objects of one manifest file: YAML documents or JSON, each one object or a `List`.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::{
    key::ObjectKey,
    kind::{Kind, Object, Visitor},
    replaced::Replaced,
    snapshot::{Problem, Snapshot},
};

/// Namespace of objects without one, as kubectl applies them.
const DEFAULT_NAMESPACE: &str = "default";

/// Adds the objects of a manifest to `snapshot`; invalid ones become problems. `file` is its name in problems. The manifest
/// is JSON if the name ends with `.json`, otherwise YAML.
pub fn read_manifest(file: &str, text: &str, snapshot: &mut Snapshot) {
    if file.ends_with(".json") {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => read_value(file, value, snapshot),
            Err(error) => {
                snapshot.problems.push(Problem {
                    place: file.into(),
                    object: None,
                    message: error.to_string(),
                });
            }
        }
        return;
    }
    for document in yaml_documents(text) {
        let place = format!("{file} document {} (line {})", document.number, document.first_line);
        match serde_yaml_ng::from_str::<Value>(document.text) {
            Ok(value) => read_value(&place, value, snapshot),
            Err(error) => snapshot.problems.push(Problem { place, object: None, message: error.to_string() }),
        }
    }
}

struct YamlDocument<'a> {
    /// From 1, counting non-empty documents.
    number: usize,
    first_line: usize,
    text: &'a str,
}

/// Splits at lines that begin with `---`, as apimachinery's YAMLReader does. A syntax error affects its document only.
fn yaml_documents(text: &str) -> Vec<YamlDocument<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut offset, mut first_line) = (0, 0, 1);
    let mut push = |text, first_line| {
        if is_not_empty(text) {
            documents.push(YamlDocument { number: documents.len() + 1, first_line, text });
        }
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.starts_with("---") {
            push(&text[start..offset], first_line);
            (start, first_line) = (offset + line.len(), index + 2);
        }
        offset += line.len();
    }
    push(&text[start..], first_line);
    documents
}

fn is_not_empty(document: &str) -> bool {
    document.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
}

fn read_value(place: &str, value: Value, snapshot: &mut Snapshot) {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        snapshot.problems.push(Problem {
            place: place.into(),
            object: None,
            message: "not a Kubernetes object: apiVersion and kind must be set".into(),
        });
        return;
    };
    if api_version == "v1" && kind == "List" {
        if let Value::Object(mut list) = value
            && let Some(Value::Array(items)) = list.remove("items")
        {
            for (index, item) in items.into_iter().enumerate() {
                // Nested lists are not valid, and recursion would be unbounded.
                if item.get("kind").and_then(Value::as_str) != Some("List") {
                    read_value(&format!("{place} item {}", index + 1), item, snapshot);
                }
            }
        }
        return;
    }
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
    let object = match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.clone(),
    };
    if let Err(message) = insert(&api_version, &kind, &value, snapshot) {
        snapshot.problems.push(Problem { place: place.into(), object: Some(object), message });
    }
}

/// Kinds that are not read are ignored. A kind of an older API group is an error, and so is an unknown version of a kind that is read is an error.
fn insert(api_version: &str, kind: &str, value: &Value, snapshot: &mut Snapshot) -> Result<(), String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(kind) = Kind::find(group, kind) else {
        return Replaced::find(group, kind).map_or(Ok(()), |replaced| Err(replaced.message()));
    };
    let names = kind.names();
    if !names.versions.contains(&version) {
        return Err(format!("version {version} is not supported; use {}", names.versions.join(" or ")));
    }
    kind.visit(Insert { value, snapshot })
}

struct Insert<'a> {
    value: &'a Value,
    snapshot: &'a mut Snapshot,
}

impl Visitor for Insert<'_> {
    type Output = Result<(), String>;

    fn visit<T: Object>(self) -> Self::Output {
        let object = T::parse(self.value)?;
        let key = key(object.metadata(), T::KIND.names().is_namespaced)?;
        let objects = T::of(self.snapshot);
        if objects.contains_key(&key) {
            return Err("defined twice; the first definition is used".into());
        }
        objects.insert(key, Arc::new(object));
        Ok(())
    }
}

fn key(metadata: &ObjectMeta, is_namespaced: bool) -> Result<ObjectKey, String> {
    let name = metadata.name.clone().filter(|name| !name.is_empty()).ok_or("metadata.name must be set")?;
    let namespace = match is_namespaced {
        true => metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        false => String::new(),
    };
    Ok(ObjectKey { namespace, name })
}
