//! Values of expressions.

use std::collections::HashMap;
use std::sync::OnceLock;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::Val;

/// A JSON document. Expressions read it in place.
#[derive(Debug)]
pub(crate) struct Document {
    /// Until it is read first: values take more memory than their text, and of many keys most are not used.
    text: Box<str>,
    value: OnceLock<Box<dyn Val>>,
}

impl Document {
    /// Numbers without a fraction are CEL's `int`, or `uint` if they are too large for it.
    pub(crate) fn new(json: &serde_json::Value) -> Self {
        Self { text: Box::default(), value: OnceLock::from(value(json)) }
    }

    /// The values are made when they are read first.
    pub(crate) fn unread(json: &serde_json::Value) -> Self {
        Self { text: json.to_string().into(), value: OnceLock::new() }
    }

    pub(super) fn value(&self) -> &dyn Val {
        // The text was made from JSON.
        let read =
            || serde_json::from_str(&self.text).map_or_else(|_| Box::new(CelNull) as _, |it| value(&it));
        &**self.value.get_or_init(read)
    }

    /// `None` if it is not an object, too.
    pub(crate) fn member<'s>(&'s self, name: &'s str) -> Option<&'s dyn Val> {
        let members: &CelMap<'_> = self.value().downcast_ref()?;
        members.get(&CelMapKey::from(name)).map(|value| &**value)
    }

    /// Whether a member contains a string. `None` if it is not a list.
    pub(super) fn has(&self, name: &str, text: &str) -> Option<bool> {
        let list: &CelList<'_> = self.member(name)?.downcast_ref()?;
        let texts = list.inner().iter().filter_map(|item| item.downcast_ref::<CelString<'_>>());
        Some(texts.map(CelString::inner).any(|it| it == text))
    }

    /// A member that is a string.
    pub(crate) fn text<'s>(&'s self, name: &'s str) -> Option<&'s str> {
        Some(self.member(name)?.downcast_ref::<CelString<'_>>()?.inner())
    }
}

fn value(json: &serde_json::Value) -> Box<dyn Val> {
    use serde_json::Value as Json;
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(*value)),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Box::new(CelInt::from(value)),
            (None, Some(value), _) => Box::new(CelUInt::from(value)),
            (None, None, Some(value)) => Box::new(CelDouble::from(value)),
            (None, None, None) => Box::new(CelNull),
        },
        Json::String(text) => Box::new(CelString::from(text.clone())),
        Json::Array(items) => Box::new(CelList::from(items.iter().map(value).collect::<Vec<_>>())),
        Json::Object(members) => {
            let members =
                members.iter().map(|(name, json)| (CelMapKey::from(&**name).into_static(), value(json)));
            Box::new(CelMap::from(members.collect::<HashMap<_, _>>()))
        }
    }
}

/// Names with values.
pub(super) fn map<'v>(members: impl IntoIterator<Item = (&'v str, CelString<'v>)>) -> CelMap<'v> {
    let boxed = |value| Box::new(value) as Box<dyn Val + 'v>;
    let members = members.into_iter().map(|(name, value)| (CelMapKey::from(name), boxed(value)));
    CelMap::from(members.collect::<HashMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_the_same_values_before_and_after_it_is_read() {
        let json = json!({
            "text": "a\u{1f600}\"b", "list": ["a", 1, null], "int": -7, "uint": u64::MAX, "float": 0.1, "map": { "a": true },
        });
        let (read, unread) = (Document::new(&json), Document::unread(&json));
        assert!(unread.value.get().is_none());
        assert_eq!((unread.text("text"), unread.has("list", "a")), (Some("a\u{1f600}\"b"), Some(true)));
        assert!(unread.value.get().is_some());
        for name in ["text", "list", "int", "uint", "float", "map"] {
            assert!(unread.member(name).unwrap().equals(read.member(name).unwrap()), "{name}");
        }
        assert!(unread.member("missing").is_none());
    }
}
