//! Time to find the model, compared with one memchr over the same bytes (lower bound), serde_json and simd-json. Time to
//! find the model and hash the prompt, compared with the model alone.
#![allow(clippy::unwrap_used, reason = "a failure ends the test or benchmark that it is in")]

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forebay_openai::{ModelScanner, PromptScanner, RequestKind};
use serde::Deserialize;
use serde_json::json;

const MODEL: &str = "Qwen/Qwen3-0.6B";

/// A serde-based gateway: all other members are parsed and ignored (serde's `IgnoredAny`).
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
}

/// A chat of `bytes` bytes of text, in lines of 80 characters or in one line.
fn body(bytes: usize, model_first: bool, lines: bool) -> Vec<u8> {
    const PROSE: &str = "the quick brown fox jumps over the lazy dog and runs on to say that water finds ";
    let model = format!(r#""model":"{MODEL}""#);
    let messages = |content: &str| format!(r#""messages":[{{"role":"user","content":"{content}"}}]"#);
    let mut content = String::new();
    while content.len() + model.len() + messages("").len() + 3 < bytes {
        content.push_str(PROSE);
        if lines {
            content.push_str("\\n");
        }
    }
    let messages = messages(&content);
    let text =
        if model_first { format!("{{{model},{messages}}}") } else { format!("{{{messages},{model}}}") };
    text.into_bytes()
}

/// A chat of 200 messages of about 300 bytes, some with quotes and line breaks.
fn many_small_messages() -> Vec<u8> {
    const SENTENCES: [&str; 3] = [
        r#"Could you look at \"main.rs\" once more? "#,
        r"the quick brown fox jumps over the lazy dog\n\n",
        "and runs on to say that water finds its way. ",
    ];
    let message = |number: usize| {
        let role = ["user", "assistant"][number % 2];
        let content: String = SENTENCES.into_iter().cycle().skip(number).take(6).collect();
        format!(r#"{{"role":"{role}","content":"{content}"}}"#)
    };
    let messages: Vec<String> = (0..200).map(message).collect();
    format!(r#"{{"messages":[{}],"stream":true,"temperature":0.7,"model":"{MODEL}"}}"#, messages.join(","))
        .into_bytes()
}

/// Forty tools with schemas: more brackets and quotes than text.
fn tools(pretty: bool) -> Vec<u8> {
    let tool = |number: usize| {
        json!({"type": "function", "function": {
            "name": format!("tool_{number}"),
            "description": "Reads a file from the workspace and returns its lines.",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Path of the file"},
                    "range": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 0},
                        "minItems": 2,
                        "maxItems": 2
                    },
                    "mode": {"enum": ["text", "binary", null]}
                },
                "required": ["path"],
                "additionalProperties": false
            }
        }})
    };
    let tools: Vec<_> = (0..40).map(tool).collect();
    let tools = if pretty { serde_json::to_string_pretty(&tools) } else { serde_json::to_string(&tools) };
    let tools = tools.unwrap();
    format!(r#"{{"tools":{tools},"messages":[{{"role":"user","content":"hi"}}],"model":"{MODEL}"}}"#)
        .into_bytes()
}

fn extract(criterion: &mut Criterion) {
    for (size, bytes) in [("1KiB", 1 << 10), ("16KiB", 16 << 10), ("220KB", 220_000), ("2MB", 2_000_000)] {
        for (order, model_first, lines) in
            [("model_first", true, false), ("model_last", false, false), ("model_last_lines", false, true)]
        {
            compare(criterion, size, order, &body(bytes, model_first, lines));
        }
    }
    compare(criterion, "chat", "many_small_messages", &many_small_messages());
    compare(criterion, "tools", "compact", &tools(false));
    compare(criterion, "tools", "pretty", &tools(true));
}

fn prompt(criterion: &mut Criterion) {
    for (size, bytes) in [("1KiB", 1 << 10), ("100KiB", 100 << 10), ("2MiB", 2 << 20)] {
        compare_prompt(criterion, size, "one_line", &body(bytes, false, false));
        compare_prompt(criterion, size, "lines", &body(bytes, false, true));
    }
    compare_prompt(criterion, "chat", "many_small_messages", &many_small_messages());
    compare_prompt(criterion, "tools", "compact", &tools(false));
    compare_prompt(criterion, "tools", "pretty", &tools(true));
}

fn compare_prompt(criterion: &mut Criterion, size: &str, name: &str, body: &[u8]) {
    let mut group = criterion.benchmark_group(format!("prompt_{size}"));
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .throughput(Throughput::Bytes(body.len() as u64));
    for (scanners, has_prompt) in [("model", false), ("model_and_prompt", true)] {
        group.bench_with_input(BenchmarkId::new(scanners, name), body, |bencher, body| {
            bencher.iter(|| {
                let mut model = ModelScanner::default();
                let mut prompt = has_prompt.then(|| PromptScanner::new(RequestKind::ChatCompletions));
                for piece in black_box(body).chunks(64 << 10) {
                    model.feed(piece).unwrap();
                    if let Some(prompt) = &mut prompt {
                        prompt.feed(piece);
                    }
                }
                if let Some(prompt) = &mut prompt {
                    prompt.finish();
                    assert!(prompt.is_complete() && black_box(&prompt).prompt_bytes() > 0);
                }
            });
        });
    }
    group.finish();
}

fn compare(criterion: &mut Criterion, group: &str, name: &str, body: &[u8]) {
    let mut group = criterion.benchmark_group(group);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .throughput(Throughput::Bytes(body.len() as u64));
    group.bench_with_input(BenchmarkId::new("forebay", name), body, |bencher, body| {
        bencher.iter(|| {
            let mut scanner = ModelScanner::default();
            // In chunks, as a connection delivers them.
            for piece in black_box(body).chunks(64 << 10) {
                scanner.feed(piece).unwrap();
            }
            scanner.finish().unwrap();
            assert_eq!(scanner.model().unwrap().as_str(), MODEL);
        });
    });
    group.bench_with_input(BenchmarkId::new("memchr", name), body, |bencher, body| {
        bencher.iter(|| assert_eq!(memchr::memchr(0, black_box(body)), None));
    });
    group.bench_with_input(BenchmarkId::new("serde_json", name), body, |bencher, body| {
        bencher.iter(|| {
            let parsed: Members = serde_json::from_slice(black_box(body)).unwrap();
            assert_eq!(parsed.model, MODEL);
        });
    });
    group.bench_with_input(BenchmarkId::new("simd_json", name), body, |bencher, body| {
        // It modifies its input. A tape is its cheapest result.
        bencher.iter_batched_ref(
            || body.to_vec(),
            |body| assert!(!simd_json::to_tape(black_box(body)).unwrap().0.is_empty()),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, extract, prompt);
criterion_main!(benches);
