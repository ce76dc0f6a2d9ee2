use forebay_telemetry::v1;

use super::{
    super::{
        ContextLengthAware, Scorer,
        fixture::{Fixture, Load},
        score::{
            ActiveRequests, BlockLoad, EndpointAttributeScorer, HeaderLabelAffinity, KvCacheUtilization,
            LMetric, LoadAware, LoraAffinity, NoHitLru, NoHitLruSettings, PrefixCache, Queue,
            RunningRequests, TokenLoad,
        },
    },
    plugin,
};

fn loads<const N: usize, T>(values: [T; N], load: impl Fn(T) -> Load) -> [Load; N] {
    values.map(load)
}

/// A prompt of 100 blocks, or 6,400 tokens.
fn check(scorer: &dyn Scorer, loads: &[Load], expected: &[f32]) {
    assert_eq!(Fixture::new(100, loads).scores(scorer), expected, "{scorer:?}");
}

#[test]
fn queue_scorer_maps_the_shortest_queue_to_one_and_the_longest_to_zero() {
    let queues = |values| loads(values, |queued| Load { queued, ..Load::default() });
    check(&Queue, &queues([Some(2.0), Some(10.0), Some(4.0)]), &[1.0, 0.0, 0.75]);
    check(&Queue, &queues([Some(3.0), Some(3.0), Some(3.0)]), &[1.0, 1.0, 1.0]);
    check(&Queue, &queues([Some(4.0), None, Some(1.0)]), &[0.0, 1.0, 0.75]);
}

#[test]
fn running_requests_size_scorer_maps_like_the_queue_scorer() {
    let running = loads([2.0, 10.0, 4.0], |it| Load { running: Some(it), ..Load::default() });
    check(&RunningRequests, &running, &[1.0, 0.0, 0.75]);
}

#[test]
fn load_aware_scorer_is_a_half_at_an_empty_queue_and_zero_at_the_threshold() {
    let queues = loads([Some(0.0), Some(32.0), Some(128.0), Some(500.0), None], |queued| Load {
        queued,
        ..Load::default()
    });
    check(&LoadAware::default(), &queues, &[0.5, 0.375, 0.0, 0.0, 0.5]);
    check(&plugin::<LoadAware>("threshold: 64"), &queues, &[0.5, 0.25, 0.0, 0.0, 0.5]);
}

#[test]
fn kv_cache_utilization_scorer_is_the_free_share() {
    let usages = loads([Some(0.25), Some(1.0), None], |kv_usage| Load { kv_usage, ..Load::default() });
    check(&KvCacheUtilization, &usages, &[0.75, 0.0, 1.0]);
}

#[test]
fn active_request_scorer_prefers_idle_endpoints() {
    let requests = loads([0.0, 2.0, 8.0], |it| Load { own_in_flight: it, ..Load::default() });
    check(&ActiveRequests::default(), &requests, &[1.0, 0.75, 0.0]);
    check(&plugin::<ActiveRequests>("{idleThreshold: 2, maxBusyScore: 0.4}"), &requests, &[1.0, 1.0, 0.0]);
    check(&plugin::<ActiveRequests>("maxBusyScore: 0.4"), &requests, &[1.0, 0.3, 0.0]);
    let others =
        loads([6.0, 0.0], |it| Load { own_in_flight: 2.0, foreign_in_flight: it, ..Load::default() });
    check(&plugin::<ActiveRequests>("ofAllClients: true"), &others, &[0.0, 0.75]);
}

#[test]
fn token_load_scorer_counts_uncached_tokens_in_flight_and_of_the_request() {
    let endpoints = [
        Load::default(),
        Load { own_backlog_bytes: 4.0 * 3200.0, ..Load::default() },
        Load { own_backlog_bytes: 4.0 * 6400.0, matched_blocks: 50, ..Load::default() },
        Load { own_backlog_bytes: 4.0 * 64_000.0, ..Load::default() },
    ];
    check(&plugin::<TokenLoad>("queueThresholdTokens: 12800"), &endpoints, &[0.5, 0.25, 0.25, 0.0]);
    check(&TokenLoad::default(), &endpoints[..1], &[0.9985]);
}

#[test]
fn prefix_cache_scorer_is_the_matched_share_of_the_prompt() {
    let endpoints = loads([0, 50, 100], |matched_blocks| Load { matched_blocks, ..Load::default() });
    check(&PrefixCache::default(), &endpoints, &[0.0, 0.5, 1.0]);
    // 50 blocks are 3,200 tokens: (3200 / 8192)^2 = 0.1526.
    check(&plugin::<PrefixCache>("matchLengthWeight: 1"), &endpoints, &[0.0, 0.1526, 0.6104]);
    let mixed = plugin::<PrefixCache>("{matchLengthWeight: 0.25, matchLengthScaleTokens: 3200}");
    check(&mixed, &endpoints, &[0.0, 0.625, 1.0]);
}

#[test]
fn no_hit_lru_scorer_prefers_the_endpoint_with_the_oldest_cold_prompt() {
    let scorer = NoHitLru::from(plugin::<NoHitLruSettings>("lruSize: 2"));
    let cold = Fixture::new(100, &[Load::default(); 3]);
    assert_eq!(cold.scores(&scorer), [1.0, 0.5, 0.0], "never used: in order");
    scorer.picked(&cold.view(), 0);
    scorer.picked(&cold.view(), 2);
    assert_eq!(cold.scores(&scorer), [0.5, 1.0, 0.0]);
    scorer.picked(&cold.view(), 0);
    assert_eq!(cold.scores(&scorer), [0.0, 1.0, 0.5]);
    scorer.picked(&cold.view(), 1);
    assert_eq!(cold.scores(&scorer), [0.5, 0.0, 1.0]);
    let warm =
        Fixture::new(100, &[Load::default(), Load { matched_blocks: 1, ..Load::default() }, Load::default()]);
    assert_eq!(warm.scores(&scorer), [0.5, 0.5, 0.5]);
    scorer.picked(&warm.view(), 0);
    assert_eq!(cold.scores(&scorer), [0.5, 0.0, 1.0], "warm prompts do not count");
    assert_eq!(Fixture::new(100, &[Load::default()]).scores(&scorer), [1.0], "a single candidate");
}

#[test]
fn no_hit_lru_scorer_forgets_the_oldest_endpoint() {
    let cold = Fixture::new(100, &[Load::default(); 3]);
    for (size, expected) in [(1, [1.0, 0.5, 0.0]), (2, [0.5, 1.0, 0.0])] {
        let scorer = NoHitLru::from(plugin::<NoHitLruSettings>(&format!("lruSize: {size}")));
        for candidate in [1, 0, 2] {
            scorer.picked(&cold.view(), candidate);
        }
        assert_eq!(cold.scores(&scorer), expected, "{size}");
    }
}

#[test]
fn lmetric_scorer_multiplies_uncached_tokens_and_requests() {
    let endpoints = [
        Load { own_in_flight: 3.0, ..Load::default() },
        Load { own_in_flight: 3.0, matched_blocks: 50, ..Load::default() },
        Load::default(),
        Load { own_in_flight: 1.0, matched_blocks: 50, ..Load::default() },
    ];
    // 6400 * 4, 3200 * 4, 6400 * 1, 3200 * 2.
    check(&LMetric, &endpoints, &[0.0, 0.6667, 1.0, 1.0]);
}

#[test]
fn block_load_scorer_is_the_cost_in_blocks() {
    let block = 64.0;
    let endpoints = [
        // 1000 + 400 prefill, 2000 + 400 decode.
        Load { own_backlog_bytes: 1000.0 * block, own_prompt_bytes: 2000.0 * block, ..Load::default() },
        // 0 + 400 - 200, 400, two requests.
        Load { own_in_flight: 2.0, matched_blocks: 50, ..Load::default() },
        // 0, 400.
        Load { matched_blocks: 100, ..Load::default() },
    ];
    // Costs 3800, 600 and 400.
    check(&BlockLoad::default(), &endpoints, &[0.0, 0.9412, 1.0]);
    // 4 * 1400 + 2400 = 8000, 4 * max(400 - 400, 0) + 400 + 128 = 528, 400.
    let agentic = plugin::<BlockLoad>("{credit: 2, prefillScale: 4, perRequestBlocks: 64}");
    check(&agentic, &endpoints, &[0.0, 0.9832, 1.0]);
}

#[test]
fn context_length_aware_prefers_narrow_ranges_with_headroom() {
    let label = |labels| Load { labels, ..Load::default() };
    let endpoints = [
        label(&[("llm-d.ai/context-length-range", "0-8192")]),
        label(&[("llm-d.ai/context-length-range", "6400-6400")]),
        label(&[("llm-d.ai/context-length-range", "0-2048")]),
        label(&[("llm-d.ai/context-length-range", "7400-9000")]),
        label(&[]),
        label(&[("llm-d.ai/context-length-range", "many")]),
    ];
    // 0.3 + 0.7 * (0.7 / 1.8192 + 0.3 * 1792 / 8192); 0.3 / (1 + 4.352); 0.3 / 2.
    check(&ContextLengthAware::default(), &endpoints, &[0.6153, 1.0, 0.0561, 0.15, 0.5, 0.0]);
    let filter = plugin::<ContextLengthAware>("enableFiltering: true");
    assert_eq!(Fixture::new(100, &endpoints).filtered(&filter), [0, 1, 4]);
}

#[test]
fn endpoint_attribute_scorer_scales_to_the_candidates_or_to_a_range() {
    let usages =
        loads([Some(0.2), Some(0.6), None, Some(0.4)], |kv_usage| Load { kv_usage, ..Load::default() });
    let scorer = |algorithm: &str| {
        plugin::<EndpointAttributeScorer>(&format!(
            "{{attributeKey: 'vllm:kv_cache_usage_perc', algorithm: {algorithm}}}"
        ))
    };
    check(&scorer("{type: linear_lower_is_better}"), &usages, &[1.0, 0.0, 0.0, 0.5]);
    check(&scorer("{type: linear_higher_is_better}"), &usages, &[0.0, 1.0, 0.0, 0.5]);
    let fixed = scorer("{type: linear_lower_is_better, normalization: {fixedRange: {min: 0, max: 0.5}}}");
    check(&fixed, &usages, &[0.6, 0.0, 0.0, 0.2]);
    let equal = loads([0.3, 0.3], |it| Load { kv_usage: Some(it), ..Load::default() });
    check(&scorer("{type: linear_lower_is_better}"), &equal, &[1.0, 1.0]);
}

#[test]
fn header_label_affinity_scorer_compares_header_and_label() {
    let zones = [
        Load { labels: &[("zone", "a")], ..Load::default() },
        Load { labels: &[("zone", "b")], ..Load::default() },
        Load::default(),
    ];
    let scorer = plugin::<HeaderLabelAffinity>("{headerName: X-Zone, labelKey: zone}");
    check(&scorer, &zones, &[0.0, 0.0, 0.0]);
    assert_eq!(Fixture::new(0, &zones).with_header("x-zone", "b").scores(&scorer), [0.0, 1.0, 0.0]);
}

#[test]
fn lora_affinity_prefers_engines_that_need_not_load_the_adapter() {
    let names = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
    let report = |running: &[&str], waiting: &[&str]| {
        Some(v1::Adapters { running: names(running), waiting: names(waiting), slots: 2, omitted: 0 })
    };
    let reports = [
        report(&["other", "lora"], &[]),
        report(&["other"], &["other"]),
        report(&["other", "third"], &["lora"]),
        report(&["other", "third"], &[]),
        None,
    ];
    let endpoints = Fixture::new(4, &[Load::default(); 5]).with_adapter("lora", &reports);
    let scorer = LoraAffinity::default();
    assert_eq!(endpoints.scores(&scorer), [1.0, 0.8, 0.6, 0.0, 0.8]);
    scorer.picked(&endpoints.view(), 3);
    assert_eq!(endpoints.scores(&scorer), [1.0, 0.8, 0.6, 1.0, 0.8], "it was just sent there");
    assert_eq!(endpoints.at(6.0).scores(&scorer), [1.0, 0.8, 0.6, 0.0, 0.8], "the engine has not loaded it");
    let base = Fixture::new(4, &[Load::default(); 2]);
    assert_eq!(base.scores(&scorer), [1.0, 1.0], "a base model needs no adapter");
}
