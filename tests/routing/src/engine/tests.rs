use std::{sync::Arc, time::Duration};

use super::*;
use crate::{router::UNIT_TOKENS, trace::Content};

/// 1 ms fixed, 1,000 tokens/s of prefill in steps of 100, nothing per sequence or KV token.
fn spec(num_blocks: u32) -> EngineSpec {
    EngineSpec {
        max_num_batched_tokens: 100,
        max_num_seqs: 4,
        block_size: 16,
        num_blocks,
        step_fixed_ns: 1e6,
        prefill_tokens_per_s: 1_000.0,
        per_sequence_ns: 0.0,
        per_kv_token_ns: 0.0,
    }
}

fn job(request: u64, content: &Content, output_tokens: u32) -> Job {
    Job {
        request: RequestId(request),
        prompt: content.prompt(),
        prompt_tokens: content.tokens(),
        output_tokens,
        reply: Arc::default(),
        bytes: content.tokens() * 4,
    }
}

fn text(id: u64, tokens: u32) -> Content {
    let mut content = Content::default();
    content.append(id, tokens);
    content
}

/// Runs until the engine is idle. Returns the events with their times.
fn drain(engine: &mut Engine) -> Vec<(Time, Event)> {
    let mut all = Vec::new();
    while let Some(at) = engine.step_ends_at() {
        let mut events = Vec::new();
        engine.advance(at, &mut events);
        all.extend(events.into_iter().map(|event| (at, event)));
    }
    all
}

/// Submits one request to an idle engine. Returns TTFT, cached tokens, and the time of its end.
fn alone(engine: &mut Engine, now: Time, job: Job) -> (Duration, u32, Time) {
    engine.submit(now, job).unwrap();
    let events = drain(engine);
    let (first, Event::FirstByte { cached_tokens, .. }) = events[0] else { panic!("{events:?}") };
    (first - now, cached_tokens, events.last().unwrap().0)
}

#[test]
fn idle_engine_needs_the_prompt_by_speed_and_the_fixed_time_of_each_step() {
    let mut engine = Engine::new(spec(1_000));
    let (ttft, cached, end) = alone(&mut engine, Time::ZERO, job(0, &text(1, 250), 11));
    assert_eq!((ttft, cached), (Duration::from_millis(250 + 3), 0));
    assert_eq!(end, Time::from_ms(253 + 10), "ten more tokens of one step each");
}

#[test]
fn repeated_prompt_costs_only_its_uncached_tail() {
    let mut engine = Engine::new(spec(1_000));
    let shared = text(1, 3 * UNIT_TOKENS);
    let mut longer = shared.clone();
    longer.append(2, 50);
    let (_, _, end) = alone(&mut engine, Time::ZERO, job(0, &shared, 1));
    let (ttft, cached, end) = alone(&mut engine, end, job(1, &longer, 1));
    assert_eq!((ttft, cached), (Duration::from_millis(50 + 1), 192));
    let (ttft, cached, _) = alone(&mut engine, end, job(2, &shared, 1));
    assert_eq!((ttft, cached), (Duration::from_millis(16 + 1), 176), "the last token is always computed");
    let view = engine.scrape(end);
    assert_eq!((view.prefix_cache_queries, view.prefix_cache_hits), (192 + 242 + 192, 192 + 176));
}

#[test]
fn answer_is_cached_for_the_next_turn() {
    let mut engine = Engine::new(spec(1_000));
    let mut content = text(1, 100);
    let mut first = job(0, &content, 60);
    content.append(2, 60);
    first.reply = content.full_units_after(100);
    content.append(3, 40);
    let (_, _, end) = alone(&mut engine, Time::ZERO, first);
    let (_, cached, _) = alone(&mut engine, end, job(1, &content, 1));
    assert_eq!(cached, 128);
}

#[test]
fn full_cache_evicts_the_least_recently_used_prompt() {
    // Room for two prompts of eight blocks.
    let mut engine = Engine::new(spec(16));
    let prompts = [1, 2, 3].map(|id| text(id, 2 * UNIT_TOKENS));
    let mut now = Time::ZERO;
    let mut cached = Vec::new();
    for (request, prompt) in [0, 1, 0, 2, 0, 1].into_iter().enumerate() {
        let (_, hit, end) = alone(&mut engine, now, job(request as u64, &prompts[prompt], 1));
        cached.push(hit);
        now = end;
    }
    assert_eq!(cached, [0, 0, 112, 0, 112, 0]);
}

#[test]
fn preempts_the_latest_request_when_blocks_run_out_and_completes_all() {
    let mut engine = Engine::new(spec(16));
    for id in 0..2 {
        engine.submit(Time::ZERO, job(id, &text(id, 64), 150)).unwrap();
    }
    let ends: Vec<_> =
        drain(&mut engine).into_iter().filter(|(_, it)| matches!(it, Event::Completed { .. })).collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0].1, Event::Completed { request: RequestId(0) });
    assert_eq!(engine.preemptions(), 1);
    let view = engine.scrape(ends[1].0);
    assert_eq!((view.running, view.waiting, view.kv_cache_usage), (0, 0, 0.0));
    assert_eq!(view.generation_tokens, 300);
}

#[test]
fn rejects_a_request_that_can_never_fit() {
    let mut engine = Engine::new(spec(4));
    assert_eq!(engine.submit(Time::ZERO, job(0, &text(1, 64), 1)), Err(TooLong));
    assert_eq!(engine.step_ends_at(), None);
    let view = engine.kernel_view(Time::ZERO);
    assert_eq!((view.started, view.finished, view.in_flight), (1, 1, 0));
}

#[test]
fn batch_limit_queues_requests_in_order() {
    let mut engine = Engine::new(spec(1_000));
    for id in 0..5 {
        engine.submit(Time::ZERO, job(id, &text(id, 10), 20)).unwrap();
    }
    let mut events = Vec::new();
    // The first request was alone in the first step.
    for _ in 0..2 {
        engine.advance(engine.step_ends_at().unwrap(), &mut events);
    }
    assert_eq!(events.len(), 4);
    let view = engine.scrape(Time::ZERO);
    assert_eq!((view.running, view.waiting), (4, 1));
    let order: Vec<_> = drain(&mut engine).into_iter().map(|(_, event)| event).collect();
    assert_eq!(order[0], Event::Completed { request: RequestId(0) });
    assert_eq!(order.last(), Some(&Event::Completed { request: RequestId(4) }));
}

#[test]
fn aborted_requests_free_their_place_and_blocks() {
    let mut engine = Engine::new(spec(1_000));
    for id in 0..6 {
        engine.submit(Time::ZERO, job(id, &text(id, 40), 100)).unwrap();
    }
    let mut events = Vec::new();
    for _ in 0..20 {
        engine.advance(engine.step_ends_at().unwrap(), &mut events);
    }
    // Decoding, decoding, and waiting.
    for id in [0, 2, 5] {
        assert!(engine.abort(RequestId(id)));
        assert!(!engine.abort(RequestId(id)));
    }
    let now = engine.step_ends_at().unwrap();
    let view = engine.kernel_view(now);
    assert_eq!((view.in_flight, view.aborted, view.waiting_first_byte), (3, 3, 1));
    let completed: Vec<_> = drain(&mut engine)
        .into_iter()
        .filter_map(|(_, event)| match event {
            Event::Completed { request } => Some(request.0),
            Event::FirstByte { .. } => None,
        })
        .collect();
    assert_eq!(completed, [1, 3, 4]);
    assert_eq!(engine.cache.available(), 1_000);
    assert_eq!((engine.kv_tokens, engine.block_phases.iter().sum::<u32>()), (0, 0));
}

#[test]
fn gauges_change_at_the_end_of_a_step_and_the_kernel_at_once() {
    let mut engine = Engine::new(spec(1_000));
    engine.submit(Time::ZERO, job(0, &text(1, 90), 5)).unwrap();
    engine.submit(Time::from_ms(1), job(1, &text(2, 90), 5)).unwrap();
    let (kernel, gauges) = (engine.kernel_view(Time::from_ms(1)), engine.scrape(Time::from_ms(1)));
    assert_eq!((kernel.in_flight, kernel.waiting_first_byte, kernel.waiting_request_bytes), (2, 2, 720));
    assert_eq!(kernel.oldest_started_at, Some(Time::ZERO));
    assert_eq!((gauges.running, gauges.waiting), (0, 0));
    engine.advance(engine.step_ends_at().unwrap(), &mut Vec::new());
    let (kernel, gauges) = (engine.kernel_view(Time::from_ms(91)), engine.scrape(Time::from_ms(91)));
    assert_eq!((kernel.waiting_first_byte, kernel.last_response_byte_at), (1, Some(Time::from_ms(91))));
    assert_eq!(kernel.ttft.sum_ns, 91_000_000);
    assert_eq!((gauges.running, gauges.waiting, gauges.steps), (1, 1, 1));
}

#[test]
fn frozen_engine_keeps_its_requests_and_continues_after_thawing() {
    let mut engine = Engine::new(spec(1_000));
    engine.submit(Time::ZERO, job(0, &text(1, 90), 3)).unwrap();
    engine.freeze();
    engine.submit(Time::from_ms(2), job(1, &text(2, 10), 1)).unwrap();
    assert_eq!(engine.step_ends_at(), None);
    assert_eq!(engine.kernel_view(Time::from_s(9)).in_flight, 2);
    engine.thaw(Time::from_s(9));
    let events = drain(&mut engine);
    assert_eq!(events[0], (Time::from_s(9), Event::FirstByte { request: RequestId(0), cached_tokens: 0 }));
    assert_eq!(events.len(), 4);
}

#[test]
fn restart_loses_requests_and_cache() {
    let mut engine = Engine::new(spec(1_000));
    let prompt = text(1, 2 * UNIT_TOKENS);
    let (_, _, now) = alone(&mut engine, Time::ZERO, job(0, &prompt, 1));
    engine.submit(now, job(1, &prompt, 9)).unwrap();
    engine.submit(now, job(2, &prompt, 9)).unwrap();
    assert_eq!(engine.restart(), [RequestId(1), RequestId(2)]);
    assert_eq!(engine.kernel_view(now).started, 0);
    let (_, cached, _) = alone(&mut engine, now, job(3, &prompt, 1));
    assert_eq!(cached, 0);
}

#[test]
fn generated_tokens_are_counted_at_the_end_of_each_step() {
    let mut engine = Engine::new(spec(1_000));
    engine.submit(Time::ZERO, job(0, &text(1, 150), 4)).unwrap();
    let mut counts = Vec::new();
    while let Some(at) = engine.step_ends_at() {
        counts.push(engine.generated(RequestId(0)));
        engine.advance(at, &mut Vec::new());
    }
    counts.push(engine.generated(RequestId(0)));
    assert_eq!(counts, [Some(0), Some(0), Some(1), Some(2), Some(3), None]);
}
