//! Header modifier filters.

use gateway_api::experimental::httproutes as api;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Sets, adds and removes headers.
#[derive(Debug, Default)]
pub struct HeaderChange {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl HeaderChange {
    pub(crate) fn of_requests(it: &api::HttpRouteRulesFiltersRequestHeaderModifier) -> Result<Self, String> {
        Ok(Self {
            set: pairs(it.set.iter().flatten().map(|header| (&header.name, &header.value)))?,
            add: pairs(it.add.iter().flatten().map(|header| (&header.name, &header.value)))?,
            remove: names(it.remove.as_deref())?,
        })
    }

    pub(crate) fn of_responses(
        it: &api::HttpRouteRulesFiltersResponseHeaderModifier,
    ) -> Result<Self, String> {
        Ok(Self {
            set: pairs(it.set.iter().flatten().map(|header| (&header.name, &header.value)))?,
            add: pairs(it.add.iter().flatten().map(|header| (&header.name, &header.value)))?,
            remove: names(it.remove.as_deref())?,
        })
    }

    /// Removes, then sets, then adds.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn pairs<'a>(
    headers: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    headers
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("the value of header {name} is not valid"))?;
            Ok((self::name(name)?, value))
        })
        .collect()
}

fn names(names: Option<&[String]>) -> Result<Vec<HeaderName>, String> {
    names.unwrap_or_default().iter().map(|text| name(text)).collect()
}

/// Framing headers cannot be changed by routes.
fn name(text: &str) -> Result<HeaderName, String> {
    match text.parse::<HeaderName>() {
        Ok(header::CONTENT_LENGTH | header::TRANSFER_ENCODING) => {
            Err(format!("the header {text} cannot be changed"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("header name {text:?} is not valid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_then_sets_then_adds() {
        let change =
            |json: serde_json::Value| HeaderChange::of_requests(&serde_json::from_value(json).unwrap());
        let all = change(serde_json::json!({
            "set": [{"name": "X-A", "value": "1"}],
            "add": [{"name": "x-b", "value": "2"}, {"name": "x-a", "value": "3"}],
            "remove": ["X-C"],
        }))
        .unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "old"), ("x-b", "old"), ("x-c", "old"), ("x-d", "old")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        all.apply(&mut headers);
        let mut got: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        got.sort_unstable();
        assert_eq!(got, [("x-a", "1"), ("x-a", "3"), ("x-b", "2"), ("x-b", "old"), ("x-d", "old")]);
        for bad in [
            serde_json::json!({"set": [{"name": "a b", "value": "1"}]}),
            serde_json::json!({"set": [{"name": "a", "value": "1\n2"}]}),
            serde_json::json!({"remove": ["content-length"]}),
        ] {
            assert!(change(bad.clone()).is_err(), "{bad}");
        }
    }
}
