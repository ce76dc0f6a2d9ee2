//! Values of expressions.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::Val;

/// A JSON document. Expressions read it in place.
#[derive(Debug)]
pub(crate) struct Document(Box<dyn Val>);

impl Document {
    /// Numbers without a fraction are CEL's `int`, or `uint` if they are too large for it.
    pub(crate) fn new(json: &serde_json::Value) -> Self {
        Self(value(json))
    }

    pub(super) fn value(&self) -> &dyn Val {
        &*self.0
    }

    /// `None` if it is not an object, too.
    pub(crate) fn member<'s>(&'s self, name: &'s str) -> Option<&'s dyn Val> {
        let members: &CelMap<'_> = self.0.downcast_ref()?;
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
