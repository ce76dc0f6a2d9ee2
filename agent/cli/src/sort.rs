//! `--sort`: the order of a list, by a field of its JSON.

use std::cmp::Ordering;

use anyhow::bail;
use serde_json::Value;

/// Sorts by a field, smallest first, unknown last. `None` keeps the order.
///
/// # Errors
/// If no item has the field.
pub(crate) fn by_field<T>(
    items: Vec<T>,
    field: Option<&str>,
    document: impl Fn(&T) -> Value,
) -> anyhow::Result<Vec<T>> {
    let Some(field) = field else { return Ok(items) };
    let pointer = format!("/{}", field.trim_start_matches('.').replace('.', "/"));
    let documents: Vec<Value> = items.iter().map(document).collect();
    if !documents.is_empty() && documents.iter().all(|document| document.pointer(&pointer).is_none()) {
        bail!(
            "no item has the field {field}: --sort takes a field of -o json, such as name or kernel.inFlight"
        );
    }
    let mut keyed: Vec<(Value, T)> = documents
        .into_iter()
        .map(|mut document| document.pointer_mut(&pointer).map(Value::take).unwrap_or_default())
        .zip(items)
        .collect();
    keyed.sort_by(|(one, _), (other, _)| order(one, other));
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

fn order(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (one, other) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            _ => one.to_string().cmp(&other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use serde_json::json;

    use super::*;

    #[test]
    fn sorts_numbers_as_numbers_and_unknown_last() {
        let items = vec![json!({"k": {"n": 10}}), json!({"k": null}), json!({"k": {"n": 9}})];
        let sorted = by_field(items.clone(), Some(".k.n"), Clone::clone).unwrap();
        assert_eq!(sorted, [items[2].clone(), items[0].clone(), items[1].clone()]);
        let error = by_field(items, Some("k.m"), Clone::clone).unwrap_err().to_string();
        assert!(error.contains("k.m") && error.contains("-o json"), "{error}");
        assert!(by_field(Vec::<Value>::new(), Some("k.m"), Clone::clone).is_ok());
    }
}
