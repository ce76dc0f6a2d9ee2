//! JSON bodies: the scanner reads the model that the engine reads, or refuses the body. The splicer changes the model only.

use forebay_openai::{BodyError, ModelName, Splicer};
use http::header::CONTENT_TYPE;
use serde_json::Value as Json;

use crate::json_reference::{Reading, Text, Value, code_points, read};
use crate::outcome::{headers, scan_split, splice_split};

const TARGET: &str = "served \"\u{e9}\" \\ model";

/// Reads and rewrites a JSON body.
pub fn json(data: &[u8]) {
    let (seed, body) = forebay_fuzz::seed(data);
    let headers = headers(CONTENT_TYPE, "application/json");
    let model = scan_split(&headers, body, seed);
    match read(body) {
        Reading::Object(members) => {
            assert_eq!(model.as_ref().ok(), expected(&members).as_ref(), "{model:?}, {members:?}");
        }
        Reading::Wide => assert!(model.is_err(), "an engine reads UTF-16 or UTF-32"),
        // The engine refuses the body: it does not matter what is read.
        Reading::None => {}
    }
    agrees_with_serde(body);

    let target = ModelName::parse(TARGET.as_bytes()).unwrap();
    let splicer = |name: &ModelName| Splicer::new(&headers, name).unwrap();
    let spliced = splice_split(|| splicer(&target), body, seed);
    match (&model, &spliced) {
        (Ok(_), Err(BodyError::ModelTooOften)) => {}
        (Ok(_), Ok(spliced)) => is_renamed(body, spliced, TARGET),
        (model, spliced) => assert!(model.is_err() && spliced.is_err(), "{model:?}, {spliced:?}"),
    }

    // A name that is longer or shorter than most.
    let short = ModelName::parse(&b"abcdefgh"[..1 + usize::from(seed % 8)]).unwrap();
    let keeping = || {
        let mut splicer = splicer(&short);
        splicer.keep_length();
        splicer
    };
    if let Ok(spliced) = splice_split(keeping, body, seed) {
        assert_eq!(spliced.len(), body.len());
        is_renamed(body, &spliced, short.as_str());
    }
}

/// The model that the gateway must read: that of the engine, if all `model` members agree.
fn expected(members: &[(Text, Value)]) -> Option<ModelName> {
    let key = code_points("model");
    let mut models = members.iter().filter(|(name, _)| *name == key).map(|(_, value)| match value {
        Value::Text(text) => {
            let name: Option<String> = text.iter().map(|c| char::from_u32(*c)).collect();
            ModelName::parse(name?.as_bytes())
        }
        Value::Other => None,
    });
    let first = models.next()??;
    models.all(|model| model.as_ref() == Some(&first)).then_some(first)
}

/// The reference reads the root member that serde_json reads.
fn agrees_with_serde(body: &[u8]) {
    let Ok(Json::Object(root)) = serde_json::from_slice::<Json>(body) else { return };
    let Reading::Object(members) = read(body) else { panic!("only serde_json reads an object") };
    let key = code_points("model");
    let last = members.iter().rfind(|(name, _)| *name == key).map(|(_, value)| value);
    let serde =
        root.get("model").map(|value| value.as_str().map_or(Value::Other, |it| Value::Text(code_points(it))));
    assert_eq!(last, serde.as_ref());
}

/// The engine reads the same members in `spliced`, except the model.
fn is_renamed(body: &[u8], spliced: &[u8], name: &str) {
    let headers = headers(CONTENT_TYPE, "application/json");
    let scanned = crate::outcome::scan(&headers, std::iter::once(spliced));
    assert_eq!(scanned.unwrap().as_str(), name);
    let Reading::Object(mut members) = read(body) else { return };
    let key = code_points("model");
    for (_, value) in members.iter_mut().filter(|(name, _)| *name == key) {
        *value = Value::Text(code_points(name));
    }
    assert_eq!(read(spliced), Reading::Object(members));
    let root = |body| match serde_json::from_slice(body) {
        Ok(Json::Object(mut root)) => {
            root.insert("model".into(), name.into());
            Some(root)
        }
        _ => None,
    };
    assert_eq!(root(body), root(spliced), "another member changed");
}
