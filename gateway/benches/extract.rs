//! Speed of finding the model, beside the floor (one memchr over the same bytes) and serde_json.
#![allow(clippy::unwrap_used, reason = "a failure ends the test or benchmark that it is in")]

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forebay_gateway::extract::ModelScanner;
use serde::Deserialize;

/// What a serde-based gateway does: all other members are parsed and ignored (serde's `IgnoredAny`).
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
}

/// A chat of `bytes` bytes: prose in lines of 80 characters, or in one line.
fn body(bytes: usize, model_first: bool, lines: bool) -> Vec<u8> {
    const PROSE: &str = "the quick brown fox jumps over the lazy dog and goes on to say that water finds ";
    let model = r#""model":"Qwen/Qwen3-0.6B""#;
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

fn extract(criterion: &mut Criterion) {
    for (size, bytes) in [("1KiB", 1 << 10), ("16KiB", 16 << 10), ("220KB", 220_000), ("2MB", 2_000_000)] {
        let mut group = criterion.benchmark_group(size);
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20);
        for (order, model_first, lines) in
            [("model_first", true, false), ("model_last", false, false), ("model_last_lines", false, true)]
        {
            let body = body(bytes, model_first, lines);
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::new("forebay", order), &body, |bencher, body| {
                bencher.iter(|| {
                    let mut scanner = ModelScanner::default();
                    // In pieces, as a connection gives them.
                    for piece in black_box(body).chunks(64 << 10) {
                        scanner.feed(piece).unwrap();
                    }
                    scanner.finish().unwrap();
                    assert_eq!(scanner.model().unwrap().as_str(), "Qwen/Qwen3-0.6B");
                });
            });
            group.bench_with_input(BenchmarkId::new("memchr", order), &body, |bencher, body| {
                bencher.iter(|| assert_eq!(memchr::memchr(0, black_box(body)), None));
            });
            group.bench_with_input(BenchmarkId::new("serde_json", order), &body, |bencher, body| {
                bencher.iter(|| {
                    let parsed: Members = serde_json::from_slice(black_box(body)).unwrap();
                    assert_eq!(parsed.model, "Qwen/Qwen3-0.6B");
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, extract);
criterion_main!(benches);
