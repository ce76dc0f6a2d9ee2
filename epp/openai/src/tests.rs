mod kinds;
mod splice;

use std::fmt;

use proptest::prelude::*;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::*;

type Outcome = Result<String, BodyError>;

/// Scans the body in chunks that end at `cuts`, which may be unsorted or out of range.
fn scan_split(body: &[u8], cuts: &[usize]) -> Outcome {
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(body.len())).collect();
    cuts.sort_unstable();
    let mut scanner = ModelScanner::default();
    let mut from = 0;
    for to in cuts.into_iter().chain([body.len()]) {
        scanner.feed(&body[from..to])?;
        from = to;
    }
    scanner.finish()?;
    scanner.model().map(ToString::to_string).ok_or(BodyError::ModelMissing)
}

fn scan(body: &[u8]) -> Outcome {
    scan_split(body, &[])
}

/// Name, body, expected outcome.
fn corpus() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    fn ok(model: &str) -> Outcome {
        Ok(model.to_owned())
    }
    fn utf16(text: &str, big_endian: bool, mark: bool) -> Vec<u8> {
        mark.then_some(0xfeff)
            .into_iter()
            .chain(text.encode_utf16())
            .flat_map(|unit: u16| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    }
    fn utf32(text: &str, big_endian: bool) -> Vec<u8> {
        text.chars()
            .flat_map(|c| {
                let c = u32::from(c);
                if big_endian { c.to_be_bytes() } else { c.to_le_bytes() }
            })
            .collect()
    }
    let nested = |levels: u32| {
        let levels = levels as usize;
        format!(r#"{{"a":{}{},"model":"m"}}"#, "[".repeat(levels), "]".repeat(levels)).into_bytes()
    };
    let long = |bytes: usize| format!(r#"{{"model":"{}"}}"#, "m".repeat(bytes)).into_bytes();
    let m = || ok("m");
    use BodyError::*;
    let texts: &[(&'static str, &str, Outcome)] = &[
        (
            "model first",
            r#"{"model":"Qwen/Qwen3-0.6B","messages":[{"role":"user","content":"hi"}]}"#,
            ok("Qwen/Qwen3-0.6B"),
        ),
        ("model last", r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"model":"m"}"#, m()),
        ("whitespace everywhere", " \r\n\t{ \"a\" : 1 , \"model\" \n:\t\"m\" } \n", m()),
        ("nested model only", r#"{"metadata":{"model":"x"},"tools":[{"model":"y"}]}"#, Err(ModelMissing)),
        ("nested model before", r#"{"metadata":{"model":"x"},"tools":[[{"model":"y"}]],"model":"m"}"#, m()),
        (
            "nested model after",
            r#"{"model":"m","response_format":{"schema":{"model":{"type":"string"}}}}"#,
            m(),
        ),
        ("model in text", r#"{"messages":[{"content":"{\"model\":\"x\"}"}],"model":"m"}"#, m()),
        ("model as a value", r#"{"a":"model","b":["model"],"model":"m"}"#, m()),
        ("escaped key, first letter", r#"{"\u006dodel":"m"}"#, m()),
        ("escaped key, middle", r#"{"mod\u0065l":"m"}"#, m()),
        ("escaped key, upper-case digits", r#"{"m\u006Fdel":"m"}"#, m()),
        ("key fully escaped", r#"{"\u006d\u006f\u0064\u0065\u006c":"m"}"#, m()),
        ("duplicate with an escaped key", r#"{"model":"a","\u006dodel":"b"}"#, Err(ModelConflict)),
        ("similar keys", r#"{"Model":"x","models":"y","mode":"z","model ":"w","model":"m"}"#, m()),
        ("key with quotes and backslashes", r#"{"\"model\\":"x","\\\"":1,"model":"m"}"#, m()),
        ("key with a surrogate pair", r#"{"\ud83d\ude00model":"x","model":"m"}"#, m()),
        ("key with a lone surrogate", r#"{"mo\ud83d":"x","model":"m"}"#, m()),
        ("empty key", r#"{"":"x","model":"m"}"#, m()),
        ("escaped slash in the value", r#"{"model":"meta\/llama"}"#, ok("meta/llama")),
        ("value escaped", r#"{"model":"\u006cl\u0061ma"}"#, ok("llama")),
        ("value with a surrogate pair", r#"{"model":"m\ud83d\ude00"}"#, ok("m😀")),
        ("value with a raw character", r#"{"model":"通义"}"#, ok("通义")),
        ("value with a lone high surrogate", r#"{"model":"m\ud83d"}"#, Err(ModelCharacters)),
        ("value with a high surrogate and a letter", r#"{"model":"\ud83dm"}"#, Err(ModelCharacters)),
        ("value with two high surrogates", r#"{"model":"\ud83d\ud83d"}"#, Err(ModelCharacters)),
        ("value with a lone low surrogate", r#"{"model":"\ude00"}"#, Err(ModelCharacters)),
        ("value with a quote", r#"{"model":"a\"b"}"#, ok("a\"b")),
        ("value with a line break", r#"{"model":"a\r\nx-evil: 1"}"#, Err(ModelCharacters)),
        ("value with a raw line break", "{\"model\":\"a\nb\"}", Err(ModelCharacters)),
        ("value with a tab", r#"{"model":"a\tb"}"#, Err(ModelCharacters)),
        ("value with NUL", r#"{"model":"a\u0000b"}"#, Err(ModelCharacters)),
        ("value with DEL", r#"{"model":"a\u007f"}"#, Err(ModelCharacters)),
        ("value with a C1 control", r#"{"model":"a\u0085"}"#, Err(ModelCharacters)),
        ("value with a zero-width space", r#"{"model":"a\u200bb"}"#, Err(ModelCharacters)),
        ("value with an inner space", r#"{"model":"my model"}"#, ok("my model")),
        ("value with a trailing space", r#"{"model":"m "}"#, Err(ModelCharacters)),
        ("value with a bad escape", r#"{"model":"\x41"}"#, Err(Malformed("invalid escape in a string"))),
        (
            "value with a bad unicode escape",
            r#"{"model":"\u00g1"}"#,
            Err(Malformed("invalid escape in a string")),
        ),
        ("same model twice", r#"{"model":"m","model":"m"}"#, m()),
        ("same model twice, escaped differently", r#"{"model":"a/m","model":"a\/m"}"#, ok("a/m")),
        ("two models", r#"{"model":"a","messages":[],"model":"b"}"#, Err(ModelConflict)),
        ("model, then null", r#"{"model":"a","model":null}"#, Err(ModelNotAString)),
        ("model missing", r#"{"messages":[]}"#, Err(ModelMissing)),
        ("empty object", "{}", Err(ModelMissing)),
        ("model null", r#"{"model":null}"#, Err(ModelNotAString)),
        ("model a number", r#"{"model":1}"#, Err(ModelNotAString)),
        ("model an object", r#"{"model":{"model":"x"}}"#, Err(ModelNotAString)),
        ("model a list", r#"{"model":["x"]}"#, Err(ModelNotAString)),
        ("model empty", r#"{"model":""}"#, Err(ModelEmpty)),
        ("byte order mark", "\u{feff}{\"model\":\"m\"}", m()),
        ("byte order mark twice", "\u{feff}\u{feff}{\"model\":\"m\"}", Err(NotAnObject)),
        ("byte order mark after whitespace", " \u{feff}{\"model\":\"m\"}", Err(NotAnObject)),
        ("root a list", r#"[{"model":"m"}]"#, Err(NotAnObject)),
        ("root a string", r#""model""#, Err(NotAnObject)),
        ("not JSON", "model=m", Err(NotAnObject)),
        ("empty body", "", Err(Empty)),
        ("only whitespace", " \n", Err(Empty)),
        ("only a byte order mark", "\u{feff}", Err(Empty)),
        ("bytes after the root are ignored", r#"{"model":"m"} {"model":"x"}"#, m()),
        ("NaN and infinities", r#"{"a":NaN,"b":-Infinity,"model":"m","c":Infinity}"#, m()),
        ("numbers", r#"{"a":-1.5e+10,"b":0,"model":"m","c":1E-7}"#, m()),
        ("lone surrogate in another member", r#"{"a":"\ud800","model":"m"}"#, m()),
        ("cut inside the root", r#"{"model":"m","a":"#, Err(Truncated)),
        ("cut before the root closes", r#"{"model":"m""#, Err(Truncated)),
        ("cut inside a nested string", r#"{"model":"m","a":["x"#, Err(Truncated)),
        ("cut inside the model", r#"{"model":"m"#, Err(Truncated)),
        ("comma before the end", r#"{"model":"m",}"#, Err(Malformed("expected a quoted key"))),
        ("key without quotes", r#"{model:"m"}"#, Err(Malformed("expected a quoted key"))),
        ("no colon", r#"{"model","m"}"#, Err(Malformed("expected ':' after a key"))),
        ("no value", r#"{"a":,"model":"m"}"#, Err(Malformed("expected a value"))),
        ("no comma", r#"{"a":"x" "model":"m"}"#, Err(Malformed("expected ',' or '}' after a value"))),
        ("two scalars", r#"{"a":1 2,"model":"m"}"#, Err(Malformed("expected ',' or '}' after a value"))),
        (
            "root closed by the wrong bracket",
            r#"{"model":"m"]"#,
            Err(Malformed("expected ',' or '}' after a value")),
        ),
    ];
    let mut corpus: Vec<_> = texts
        .iter()
        .map(|(name, body, expected)| (*name, body.as_bytes().to_vec(), expected.clone()))
        .collect();
    let text = r#"{"model":"m"}"#;
    corpus.extend([
        ("UTF-16 with mark, little endian", utf16(text, false, true), Err(WideEncoding)),
        ("UTF-16 with mark, big endian", utf16(text, true, true), Err(WideEncoding)),
        ("UTF-16, little endian", utf16(text, false, false), Err(WideEncoding)),
        ("UTF-16, big endian", utf16(text, true, false), Err(WideEncoding)),
        ("UTF-16 after whitespace", utf16(&format!(" {text}"), false, false), Err(WideEncoding)),
        ("UTF-32, little endian", utf32(text, false), Err(WideEncoding)),
        ("UTF-32, big endian", utf32(text, true), Err(WideEncoding)),
        ("invalid UTF-8 in another member", b"{\"a\":\"\xff\xc0\",\"model\":\"m\"}".to_vec(), m()),
        ("invalid UTF-8 in the model", b"{\"model\":\"\xff\"}".to_vec(), Err(ModelCharacters)),
        ("longest model", long(MAX_MODEL_NAME_BYTES), ok(&"m".repeat(MAX_MODEL_NAME_BYTES))),
        ("model too long", long(MAX_MODEL_NAME_BYTES + 1), Err(ModelTooLong)),
        ("deepest nesting", nested(MAX_DEPTH - 1), m()),
        ("too deep", nested(MAX_DEPTH), Err(TooDeep)),
    ]);
    corpus
}

#[test]
fn corpus_bodies_have_the_expected_outcome() {
    for (name, body, expected) in corpus() {
        assert_eq!(scan(&body), expected, "{name}");
    }
}

#[test]
fn outcome_does_not_depend_on_the_split() {
    for (name, body, expected) in corpus() {
        let every_byte: Vec<usize> = (0..body.len()).collect();
        assert_eq!(scan_split(&body, &every_byte), expected, "{name}, byte by byte");
        if body.len() > 2_000 {
            continue; // covered by the property test's random cuts
        }
        for cut in 0..body.len() {
            assert_eq!(scan_split(&body, &[cut]), expected, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn knows_the_model_at_the_end_of_its_value() {
    let mut scanner = ModelScanner::default();
    assert_eq!(scanner.feed(br#"{"model":"m"#), Ok(Progress::Undecided));
    assert_eq!(scanner.feed(br#"""#), Ok(Progress::Model));
    assert_eq!(scanner.model().map(ModelName::as_str), Some("m"));
    assert_eq!(scanner.feed(br#","stream":true}"#), Ok(Progress::Finished));
    assert_eq!(scanner.finish(), Ok(()));
}

#[test]
fn corpus_agrees_with_serde_for_bodies_that_serde_accepts() {
    let mut accepted = 0;
    for (name, body, expected) in corpus() {
        if let Some(oracle) = oracle(&body) {
            accepted += 1;
            assert_eq!(expected, oracle, "{name}");
        }
    }
    assert!(accepted >= 35, "serde accepted only {accepted} bodies");
}

/// The members of a root object in order, duplicates kept.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Members, A::Error> {
                Err(de::Error::custom("a list"))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The outcome according to serde, plus the rules for several `model` members. `None` if serde does not accept the body as
/// an object.
fn oracle(body: &[u8]) -> Option<Outcome> {
    let Members(members) = serde_json::from_slice(body).ok()?;
    let mut found: Option<String> = None;
    for (_, value) in members.iter().filter(|(key, _)| key == "model") {
        let Value::String(model) = value else { return Some(Err(BodyError::ModelNotAString)) };
        let model = match ModelName::decoded(model.as_bytes()) {
            Ok(model) => model.to_string(),
            Err(error) => return Some(Err(error)),
        };
        match &found {
            Some(first) if *first != model => return Some(Err(BodyError::ModelConflict)),
            _ => found = Some(model),
        }
    }
    Some(found.ok_or(BodyError::ModelMissing))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("model".to_owned()),
        1 => Just("m".to_owned()),
        2 => "[a-z\"\\\\{}\\[\\]:,]{0,12}",
        1 => "\\PC{0,6}",
        1 => any::<char>().prop_map(String::from),
    ]
}

/// A JSON string in which random characters are escaped.
fn quoted() -> impl Strategy<Value = String> {
    (text(), any::<u64>()).prop_map(|(text, spelling)| {
        let mut out = String::from('"');
        for (index, c) in text.chars().enumerate() {
            let escape = spelling >> (index % 64) & 1 == 1;
            if escape || matches!(c, '"' | '\\') || c < ' ' {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(c);
            }
        }
        out.push('"');
        out
    })
}

fn whitespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t")]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => quoted(),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => Just("-1.5e-3".to_owned()),
        1 => Just("null".to_owned()),
        1 => Just("true".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            object(inner),
        ]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((whitespace(), quoted(), whitespace(), whitespace(), value, whitespace()), 0..5)
        .prop_map(|members| {
            let members: Vec<String> = members
                .into_iter()
                .map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"))
                .collect();
            format!("{{{}}}", members.join(","))
        })
}

/// Parts of containers and strings. Most random sequences are invalid JSON.
fn long_part() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..130_usize).prop_map(|count| format!("\"{}\"", "x".repeat(count))),
        2 => (0..900_usize).prop_map(|count| "x".repeat(count)),
        2 => (0..9_usize).prop_map(|count| "\\".repeat(count)),
        2 => (0..66_usize).prop_map(|count| format!("\"{}\\\"\\\\\"", "y".repeat(count))),
        1 => Just("\"".to_owned()),
        2 => Just("{\"k\":[".to_owned()),
        2 => Just("]}".to_owned()),
        1 => Just(" \n\t, 1.5e3, null ".to_owned()),
    ]
}

/// Mostly strings below the root, so that duplicates and conflicts occur.
fn document() -> impl Strategy<Value = String> {
    object(prop_oneof![3 => quoted(), 1 => value()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn documents_agree_with_serde_for_any_split(
        document in document(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let body = document.as_bytes();
        let expected = oracle(body).expect("serde accepts generated documents");
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        prop_assert_eq!(scan(body), expected.clone());
        prop_assert_eq!(scan_split(body, &cuts), expected);
    }

    #[test]
    fn corpus_outcome_does_not_depend_on_random_splits(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
    ) {
        let corpus = corpus();
        let (name, body, expected) = which.get(&corpus);
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        prop_assert_eq!(&scan_split(body, &cuts), expected, "{}", name);
    }

    /// Long bodies use blocks, bytes between blocks, and memchr. Byte by byte, none of them is used.
    #[test]
    fn block_scan_agrees_with_bytewise_scan(
        parts in prop::collection::vec(long_part(), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let body = format!(r#"{{"a":[{}],"model":"m"}}"#, parts.concat());
        let body = body.as_bytes();
        let every_byte: Vec<usize> = (0..body.len()).collect();
        let expected = scan_split(body, &every_byte);
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        prop_assert_eq!(scan_split(body, &cuts), expected.clone());
        prop_assert_eq!(scan(body), expected);
    }

    #[test]
    fn outcome_for_arbitrary_bytes_does_not_depend_on_the_split(
        body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\":,\\model 1u006d".to_vec())], 0..80),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut body = body;
        body.splice(0..0, *b"{");
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        prop_assert_eq!(scan(&body), scan_split(&body, &cuts));
    }
}
