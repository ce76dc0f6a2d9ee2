mod properties;
mod reference;

use serde_json::json;

use self::reference::Features;
use super::*;

/// Scans the body in pieces that end at `cuts`, which may be unsorted or out of range.
fn scan_split(kind: RequestKind, body: &[u8], cuts: &[usize]) -> Features {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(body.len())).collect();
    cuts.sort_unstable();
    let mut scanner = PromptScanner::new(kind);
    let mut from = 0;
    for to in cuts.into_iter().chain([body.len()]) {
        scanner.feed(&body[from..to]);
        from = to;
    }
    scanner.finish();
    Features::of(&scanner)
}

fn scan(kind: RequestKind, body: &str) -> Features {
    scan_split(kind, body.as_bytes(), &[])
}

use RequestKind::*;

const KINDS: [RequestKind; 5] = [ChatCompletions, Completions, Responses, Messages, Embeddings];

/// The bytes that were hashed, in one number: equal for equal prompts.
fn prompt(kind: RequestKind, body: &str) -> (u64, Vec<u64>, u64) {
    let features = scan(kind, body);
    assert!(features.is_complete, "{body}");
    (features.context_digest, features.turns, features.prompt_bytes)
}

fn text(bytes: usize) -> String {
    (0..bytes).map(|at| char::from(b'a' + (at * at % 23) as u8)).collect()
}

#[test]
fn each_kind_has_its_prompt_members() {
    let long = text(300);
    for (kind, turns, context) in [
        (
            ChatCompletions,
            &["messages"][..],
            &["chat_template", "chat_template_kwargs", "reasoning_effort", "tools", "functions", "documents"]
                [..],
        ),
        (Completions, &["prompt"], &[]),
        (Responses, &["input"], &["instructions", "tools", "reasoning", "chat_template_kwargs"]),
        (Messages, &["messages"], &["system", "tools", "chat_template_kwargs"]),
        (Embeddings, &["input", "messages"], &[]),
    ] {
        for name in [
            "messages",
            "input",
            "prompt",
            "system",
            "tools",
            "functions",
            "instructions",
            "documents",
            "chat_template",
            "chat_template_kwargs",
            "reasoning",
            "reasoning_effort",
            "metadata",
            "user",
        ] {
            let found = scan(kind, &json!({ name: long }).to_string());
            let blocks = (found.turns.len(), found.context.len());
            let expected = (usize::from(turns.contains(&name)), usize::from(context.contains(&name)));
            assert_eq!(blocks, expected, "{name} of {kind:?}");
            assert_eq!(found.prompt_bytes, 302 * (blocks.0 + blocks.1) as u64, "{name} of {kind:?}");
            assert_eq!(found.context_digest != 0, blocks.1 == 1, "{name} of {kind:?}");
        }
    }
}

#[test]
fn paths_select_the_kind() {
    for (path, kind) in [
        ("/v1/chat/completions", Some(ChatCompletions)),
        ("/v1/completions", Some(Completions)),
        ("/v1/responses", Some(Responses)),
        ("/v1/messages", Some(Messages)),
        ("/v1/embeddings", Some(Embeddings)),
        ("/v1/chat/completions?x=1", None),
        ("/V1/completions", None),
        ("/v1/messages/count_tokens", None),
        ("", None),
    ] {
        assert_eq!(RequestKind::of_path(path), kind, "{path}");
    }
}

#[test]
fn bodies_with_one_meaning_have_one_chain() {
    let user = r#"{"role":"user","content":[{"type":"text","text":"a \" b \\"},1.5e3,null,true]}"#;
    let body = format!(r#"{{"messages":[{user}],"tools":["x"],"stream":true}}"#);
    let expected = prompt(ChatCompletions, &body);
    let spaced = body.replace("\":", "\" :\n").replace("[{", "[ \t{").replace("},", "}\r\n ,");
    assert_ne!(spaced, body);
    for same in [
        spaced,
        format!(r#"{{"tools":["x"],"stream":true,"messages":[{user}]}}"#),
        format!(r#"{{"m\u0065ssages":[{user}],"\u0074\u006f\u006f\u006c\u0073":["x"]}}"#),
        format!(r#"{{"messages":[1],"tools":[2],"messages":[{user}],"tools":["x"]}}"#),
        format!("\u{feff}{body}\n"),
        body.replace("true}", "true,\"functions\":null}"),
    ] {
        assert_eq!(prompt(ChatCompletions, &same), expected, "{same}");
    }
    for other in [
        body.replace("a \\", "a  \\"),
        body.replace("1.5e3", "1500"),
        body.replace("null", "false"),
        body.replace(r#"["x"]"#, r#"["y"]"#),
        body.replace("tools", "functions"),
        body.replace(r#","tools":["x"]"#, ""),
        body.replace("true}", "true,\"tools\":null}"),
    ] {
        assert_ne!(prompt(ChatCompletions, &other), expected, "{other}");
    }
}

#[test]
fn context_is_combined_in_one_order() {
    let (tools, system) = (text(600), text(700));
    let one = scan(Messages, &format!(r#"{{"tools":"{tools}","system":"{system}","messages":[]}}"#));
    let other = scan(Messages, &format!(r#"{{"messages":[],"system":"{system}","tools":"{tools}"}}"#));
    assert_eq!(one, other);
    assert_eq!(one.context.len(), 4);
    // The system comes first: without tools it has the same blocks.
    let system_only = scan(Messages, &format!(r#"{{"system":"{system}"}}"#));
    assert_eq!(system_only.context, one.context[..2]);
    let tools_only = scan(Messages, &format!(r#"{{"tools":"{tools}"}}"#));
    assert_ne!(tools_only.context, one.context[2..]);
}

#[test]
fn context_is_known_when_no_member_of_it_can_follow() {
    let mut scanner = PromptScanner::new(ChatCompletions);
    scanner.feed(br#"{"tools":[1],"messages":[]"#);
    assert!(!scanner.context_is_known());
    scanner.feed(b"}");
    assert!(scanner.context_is_known());
    assert!(PromptScanner::new(Completions).context_is_known());
    let mut cut = PromptScanner::new(ChatCompletions);
    cut.feed(br#"{"tools":[1"#);
    cut.finish();
    assert!(cut.context_is_known() && !cut.is_complete());
}

#[test]
fn settings_are_read_and_the_last_one_counts() {
    let settings = |body: &str| {
        let features = scan(ChatCompletions, body);
        (features.max_tokens, features.priority, features.stream, features.n)
    };
    for (body, expected) in [
        ("{}", (None, None, None, None)),
        (r#"{"max_tokens":16,"priority":-3,"stream":true,"n":2}"#, (Some(16), Some(-3), Some(true), Some(2))),
        (r#"{"max_tokens":16,"max_completion_tokens":17 }"#, (Some(17), None, None, None)),
        (r#"{"max_completion_tokens":17,"max_tokens":16}"#, (Some(17), None, None, None)),
        (r#"{"max_completion_tokens":null,"max_tokens":16}"#, (Some(16), None, None, None)),
        (r#"{"max_output_tokens":18,"stream":false}"#, (Some(18), None, Some(false), None)),
        (r#"{"n":2,"n":3,"stream":true,"stream":null}"#, (None, None, None, Some(3))),
        (r#"{"n":4294967295,"max_tokens":4294967296}"#, (None, None, None, Some(u32::MAX))),
        (r#"{"n":-1,"priority":"7","max_tokens":1.5}"#, (None, None, None, None)),
        (r#"{"priority":-9223372036854775808}"#, (None, Some(i64::MIN), None, None)),
        (r#"{"priority":100000000000000000000000000000}"#, (None, None, None, None)),
        (r#"{"x":{"n":1,"stream":true},"y":["priority",7]}"#, (None, None, None, None)),
    ] {
        assert_eq!(settings(body), expected, "{body}");
    }
}

#[test]
fn cache_salt_is_read_whole() {
    let salt = |body: &str| scan(Completions, body).cache_salt.map(|salt| String::from_utf8(salt).unwrap());
    assert_eq!(salt(r#"{"cache_salt":"a\"\u0062","prompt":"x"}"#).as_deref(), Some(r#"a\"\u0062"#));
    assert_eq!(salt(r#"{"cache_salt":"a","cache_salt":"b"}"#).as_deref(), Some("b"));
    assert_eq!(salt(r#"{"cache_salt":"a","cache_salt":null}"#), None);
    assert_eq!(salt(r#"{"cache_salt":7}"#), None);
    assert_eq!(salt(r#"{"cache_salt":"a"#), None, "not the whole salt");
    let long = "s".repeat(MAX_CACHE_SALT_BYTES + 9);
    assert_eq!(salt(&json!({ "cache_salt": long }).to_string()).unwrap().len(), MAX_CACHE_SALT_BYTES);
}

#[test]
fn seeds_separate_models_and_salts() {
    let seeds = [
        prompt_seed("model", None),
        prompt_seed("model", Some(b"")),
        prompt_seed("model", Some(b"a")),
        prompt_seed("modela", None),
        prompt_seed("modela", Some(b"")),
        prompt_seed("mode", Some(b"la")),
        prompt_seed("", Some(b"modela")),
    ];
    for (at, seed) in seeds.iter().enumerate() {
        assert!(!seeds[..at].contains(seed), "{at}");
        assert_ne!(seeded_block(*seed, 7), seeded_block(seeds[(at + 1) % seeds.len()], 7));
    }
}

#[test]
fn media_counts_by_content() {
    let base64 = text(1000);
    let image = |url: &str| {
        json!({"messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
            {"role": "user", "content": text(400)},
        ]})
        .to_string()
    };
    let url = format!("data:image/png;base64,{base64}");
    let found = scan(ChatCompletions, &image(&url));
    assert_eq!((found.media_items, found.media_bytes), (1, url.len() as u64));
    let without = image("").len() as u64 - r#"{"messages":}"#.len() as u64;
    assert_eq!(found.prompt_bytes, without - 2 + 16);
    assert_eq!(scan(ChatCompletions, &image(&url)), found);
    let changed = scan(ChatCompletions, &image(&url.replace("png", "gif")));
    assert_eq!(changed.turns.len(), found.turns.len());
    assert!(changed.turns.iter().zip(&found.turns).all(|(one, other)| one != other));
    assert_eq!(scan(ChatCompletions, &image("https://a/b.png")).media_items, 0);
}

#[test]
fn media_is_found_at_any_position_and_split() {
    for before in 0..70 {
        let (name, base64) = ("n".repeat(before), text(70));
        let content = json!([{ "key": name }, "data:x", { "data": base64 }]);
        let body = json!({ "messages": content }).to_string();
        for cut in 0..body.len() {
            let found = scan_split(Messages, body.as_bytes(), &[cut]);
            assert_eq!((found.media_items, found.media_bytes), (2, 76), "{body} at {cut}");
        }
    }
}

#[test]
fn base64_under_the_name_data_is_media() {
    let base64 = text(64);
    for (content, items) in [
        (json!({"type": "input_audio", "input_audio": {"data": base64, "format": "wav"}}), 1),
        (json!({"type": "image", "source": {"type": "base64", "data": base64 + "==\\/"}}), 1),
        (json!({"data": text(63)}), 0),
        (json!({"data": text(40) + " " + &text(40)}), 0),
        (json!({"text": text(100)}), 0),
        (json!(["data", text(100)]), 0),
        (json!({"data": "data", "text": text(100)}), 0),
        (json!({"database": text(100)}), 0),
        (json!({"data": ["x", text(100)]}), 0),
    ] {
        for body in [
            json!({ "messages": [content] }).to_string(),
            serde_json::to_string_pretty(&json!({ "messages": [content] })).unwrap(),
        ] {
            assert_eq!(scan(Messages, &body).media_items, items, "{body}");
        }
    }
}

#[test]
fn hashes_are_bounded_and_bytes_are_counted() {
    let prompt = "p".repeat((MAX_PROMPT_BLOCKS + 3) * PROMPT_BLOCK_BYTES);
    let body = json!({ "prompt": prompt }).to_string();
    let whole = scan(Completions, &body);
    assert_eq!(whole.turns.len(), MAX_PROMPT_BLOCKS);
    assert_eq!(whole.prompt_bytes, prompt.len() as u64 + 2);
    assert_eq!(scan_split(Completions, body.as_bytes(), &[4_194_000, 4_194_500]), whole);
}

#[test]
fn malformed_bodies_end_the_scan() {
    let long = text(300);
    for body in ["", "[]", "x", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1 2}", "{\"\\x\":1}", "{a:1}", "\0{}"] {
        let mut scanner = PromptScanner::new(Completions);
        scanner.feed(body.as_bytes());
        scanner.feed(format!(r#","prompt":"{long}"}}"#).as_bytes());
        scanner.finish();
        assert!(!scanner.is_complete(), "{body:?}");
        assert!(scanner.turn_blocks().is_empty(), "{body:?}");
    }
    let kept = scan(Completions, &format!(r#"{{"n":2,"prompt":"{long}",,"n":3}}"#));
    assert_eq!((kept.n, kept.turns.len(), kept.is_complete), (Some(2), 1, false));
    let deep = format!(r#"{{"messages":["{long}",{}"#, "[".repeat(100_000));
    let found = scan(ChatCompletions, &deep);
    assert_eq!((found.turns.len(), found.is_complete), (0, false));
    assert_eq!(scan_split(ChatCompletions, deep.as_bytes(), &[400, 10_000]), found);
}
