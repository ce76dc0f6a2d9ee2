//! Loaders and generators.

use std::path::Path;

use forebay_routing_sim::{
    Time, Trace, UNIT_TOKENS,
    trace::{Agents, Bursts, CodeGeneration, Reasoning, SharedPrompts, Start, azure, mooncake},
};

fn generated(seed: u64) -> Vec<Trace> {
    vec![
        SharedPrompts::default().generate(seed),
        Agents::default().generate(seed),
        CodeGeneration::default().generate(seed),
        Reasoning::default().generate(seed),
        Bursts::default().generate(seed),
    ]
}

fn mean(trace: &Trace, value: impl Fn(&forebay_routing_sim::trace::Entry) -> u32) -> f64 {
    trace.entries.iter().map(|entry| f64::from(value(entry))).sum::<f64>() / trace.entries.len() as f64
}

#[test]
fn entries_are_consistent_and_repeatable() {
    for (trace, again) in generated(5).into_iter().zip(generated(5)) {
        assert_eq!(trace, again);
        for (index, entry) in trace.entries.iter().enumerate() {
            let request = &entry.request;
            assert_eq!(request.id.0, index as u64);
            assert_eq!(request.prompt.len(), request.prompt_tokens.div_ceil(UNIT_TOKENS) as usize);
            assert!(entry.output_tokens <= request.max_tokens && entry.output_tokens > 0);
            if let Start::After { previous, .. } = entry.start {
                let before = &trace.entries[previous];
                let whole = (before.request.prompt_tokens / UNIT_TOKENS) as usize;
                assert_eq!(before.request.session, request.session);
                assert_eq!(before.request.prompt[..whole], request.prompt[..whole]);
                let reply = &request.prompt[whole..whole + before.reply.len()];
                assert_eq!(*before.reply, *reply);
            }
        }
    }
}

#[test]
fn workloads_have_their_published_sizes() {
    let [shared, agents, code, reasoning, bursts] = &generated(1)[..] else { panic!() };
    let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.1;
    assert!(near(mean(shared, |it| it.request.prompt_tokens), 7_200.0));
    assert!(near(mean(code, |it| it.request.prompt_tokens), 70_000.0));
    assert!(near(mean(code, |it| it.output_tokens), 800.0));
    assert!(near(mean(reasoning, |it| it.request.prompt_tokens), 1_000.0));
    assert!(near(mean(reasoning, |it| it.output_tokens), 8_000.0));
    assert!(agents.entries.len() > 10 * 400);
    assert!(bursts.entries.len() > shared.entries.len());
}

#[test]
fn rate_scales_arrivals_and_not_the_pauses_of_sessions() {
    let trace = Agents::default().generate(1);
    let faster = trace.at_rate(4.0);
    let ratio = trace.last_start().as_secs_f64() / faster.last_start().as_secs_f64();
    assert!((ratio - 4.0).abs() < 1e-6);
    let pauses = |trace: &Trace| -> Vec<Start> {
        trace.entries.iter().map(|it| it.start).filter(|it| matches!(it, Start::After { .. })).collect()
    };
    assert_eq!(pauses(&trace), pauses(&faster));
}

#[test]
fn missing_trace_is_skipped_and_a_wrong_line_is_named() {
    let error = mooncake(Path::new("does/not/exist")).unwrap_err();
    assert_eq!(error.to_string(), "skipped: no trace file does/not/exist/mooncake_conversation.jsonl");
    let folder = std::env::temp_dir().join(format!("forebay-traces-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let line = r#"{"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [7, 8]}"#;
    let wrong = r#"{"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [7]}"#;
    let file = folder.join("mooncake_conversation.jsonl");
    std::fs::write(&file, format!("{line}\n{line}\n")).unwrap();
    let trace = mooncake(&folder).unwrap();
    assert_eq!(trace.entries[0].start, Start::At(Time::from_s(1)));
    assert_eq!(trace.entries[0].request.prompt, trace.entries[1].request.prompt);
    assert_eq!(trace.entries[0].request.prompt.len(), 11);
    std::fs::write(&file, format!("{line}\n{wrong}\n")).unwrap();
    let error = mooncake(&folder).unwrap_err().to_string();
    assert!(error.ends_with(":2: 1 hash_ids for input_length 700, expected one per 512 tokens"), "{error}");
    let csv =
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:50.75,3,9\n";
    std::fs::write(folder.join("azure_2023_conv.csv"), csv).unwrap();
    let trace = azure(&folder).unwrap();
    assert_eq!(trace.entries[1].start, Start::At(Time::from_ms(4_250)));
    assert_ne!(trace.entries[0].request.prompt[0], trace.entries[1].request.prompt[0]);
    std::fs::write(folder.join("azure_2023_conv.csv"), csv.replace(",44", ",x")).unwrap();
    let error = azure(&folder).unwrap_err().to_string();
    assert!(error.ends_with(":2: GeneratedTokens \"x\": invalid digit found in string"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}
