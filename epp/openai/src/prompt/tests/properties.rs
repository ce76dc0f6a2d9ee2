use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

/// Strings around the limits of blocks, heads and data URLs.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z \"\\\\{}\\[\\]:,\u{e9}\n]{0,12}",
        2 => (0..700_usize).prop_map(super::text),
        2 => (50..80_usize, "[ -~]{0,3}").prop_map(|(count, end)| super::text(count) + &end),
        2 => "[A-Za-z0-9+/]{0,90}".prop_map(|base64| format!("data:image/png;base64,{base64}")),
        1 => prop::sample::select(vec!["data", "data:", "dat", "data\"", "database"]).prop_map(String::from),
        1 => (0..9_usize).prop_map(|count| "\\".repeat(count)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => text().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let name = prop_oneof![3 => "[a-z]{0,9}", 2 => Just("data".to_owned()), 1 => text()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..5)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

const NAMES: [&str; 16] = [
    "messages",
    "input",
    "prompt",
    "system",
    "tools",
    "instructions",
    "chat_template_kwargs",
    "documents",
    "reasoning",
    "model",
    "n",
    "max_tokens",
    "stream",
    "priority",
    "cache_salt",
    "functions",
];

fn members() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let member = prop_oneof![
        6 => (prop::sample::select(NAMES.to_vec()), value()),
        1 => (prop::sample::select(vec!["n", "priority", "max_tokens"]), (-5..9_i64).prop_map(Value::from)),
    ];
    prop::collection::vec(member, 0..6)
}

fn kind() -> impl Strategy<Value = RequestKind> {
    prop::sample::select(KINDS.to_vec())
}

type Cuts = Vec<prop::sample::Index>;

fn cuts() -> impl Strategy<Value = Cuts> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

fn positions(cuts: &Cuts, body: &[u8]) -> Vec<usize> {
    cuts.iter().map(|cut| cut.index(body.len() + 1)).collect()
}

/// A root object with these members, duplicates kept.
fn body(members: &[(&str, Value)], pretty: bool) -> String {
    let members: Vec<String> = members
        .iter()
        .map(
            |(name, value)| {
                if pretty { format!("  \"{name}\" : {value:#}") } else { format!("\"{name}\":{value}") }
            },
        )
        .collect();
    format!("{{{}}}", members.join(if pretty { ",\r\n" } else { "," }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn features_agree_with_the_reference_for_any_split_and_layout(
        kind in kind(), members in members(), cuts in cuts(),
    ) {
        for pretty in [false, true] {
            let body = body(&members, pretty);
            let expected = Features::expected(kind, body.as_bytes()).expect("serde_json reads what it wrote");
            prop_assert_eq!(&scan(kind, &body), &expected, "{}", body);
            let cuts = positions(&cuts, body.as_bytes());
            prop_assert_eq!(&scan_split(kind, body.as_bytes(), &cuts), &expected, "{} at {:?}", body, cuts);
        }
    }

    #[test]
    fn features_do_not_depend_on_layout_and_order(kind in kind(), members in members()) {
        let mut members = members;
        members.sort_by_key(|(name, _)| *name);
        members.dedup_by_key(|(name, _)| *name);
        let expected = scan(kind, &body(&members, false));
        prop_assert_eq!(scan(kind, &body(&members, true)), expected.clone());
        members.reverse();
        prop_assert_eq!(scan(kind, &body(&members, false)), expected);
    }

    #[test]
    fn features_of_any_bytes_do_not_depend_on_the_split(
        kind in kind(),
        parts in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(vec![
                "\"", "\\", "{", "}", "[", "]", ":", ",", " ", "\n", "null", "1", "\"data\":\"", "\"data:",
                "\"messages\":", "\"input\":", "\"tools\":[", "\"cache_salt\":\"", "\"n\":", "\\u0061", "\u{1}",
            ]).prop_map(String::from),
            1 => (0..300_usize).prop_map(super::text),
            1 => (0..300_usize).prop_map(|count| " ".repeat(count)),
            1 => (0..70_usize).prop_map(|count| "\\".repeat(count)),
        ], 0..40),
        cuts in cuts(),
    ) {
        let body = format!("{{{}", parts.concat());
        let cuts = positions(&cuts, body.as_bytes());
        let every: Vec<usize> = (0..body.len()).collect();
        let whole = scan(kind, &body);
        prop_assert_eq!(&scan_split(kind, body.as_bytes(), &cuts), &whole);
        prop_assert_eq!(&scan_split(kind, body.as_bytes(), &every), &whole);
        if let Some(expected) = Features::expected(kind, body.as_bytes()) {
            prop_assert_eq!(whole, expected);
        }
    }

    #[test]
    fn common_prefix_shares_exactly_its_whole_blocks(common in 0..3000_usize, more in 256..600_usize) {
        // The opening quote belongs to the prefix.
        let with = |next: &str| format!(r#"{{"prompt":"{}{next}{}"}}"#, super::text(common), super::text(more));
        let (one, other) = (scan(Completions, &with("1")).turns, scan(Completions, &with("2")).turns);
        let shared = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
        prop_assert_eq!(shared, (common + 1) / PROMPT_BLOCK_BYTES);
        prop_assert!(one.len() > shared);
        prop_assert!(one[shared..].iter().zip(&other[shared..]).all(|(one, other)| one != other));
    }
}
