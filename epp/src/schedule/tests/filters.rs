use super::{
    super::{
        filter::{
            ByLabel, EndpointAttributeFilter, HeaderBasedTesting, LabelSelector, PrefixCacheAffinity,
            Utilization,
        },
        fixture::{Fixture, Load},
    },
    plugin,
};

fn labelled<const N: usize>(labels: [&'static [(&'static str, &'static str)]; N]) -> Fixture {
    Fixture::new(0, &labels.map(|labels| Load { labels, ..Load::default() }))
}

#[test]
fn label_selector_filter_keeps_pods_that_match() {
    let fixture =
        labelled([&[("app", "a"), ("gpu", "h100")], &[("app", "a")], &[("app", "b"), ("gpu", "h200")], &[]]);
    for (selector, expected) in [
        ("matchLabels: {app: a}", &[0, 1][..]),
        ("matchLabels: {app: a, gpu: h100}", &[0]),
        ("matchExpressions: [{key: gpu, operator: In, values: [h100, h200]}]", &[0, 2]),
        ("matchExpressions: [{key: gpu, operator: NotIn, values: [h100]}]", &[1, 2, 3]),
        ("matchExpressions: [{key: gpu, operator: Exists}]", &[0, 2]),
        ("{matchLabels: {app: a}, matchExpressions: [{key: gpu, operator: DoesNotExist}]}", &[1]),
        ("matchLabels: {app: c}", &[]),
        ("{}", &[0, 1, 2, 3]),
    ] {
        assert_eq!(fixture.filtered(&plugin::<LabelSelector>(selector)), expected, "{selector}");
    }
}

#[test]
fn by_label_keeps_pods_with_one_of_the_values() {
    let fixture = labelled([&[("tier", "a")], &[("tier", "b")], &[("tier", "c")], &[]]);
    let filter = plugin::<ByLabel>("{label: tier, validValues: [a, c]}");
    assert_eq!(fixture.filtered(&filter), [0, 2]);
    let filter = plugin::<ByLabel>("{label: tier, validValues: [a], allowsNoLabel: true}");
    assert_eq!(fixture.filtered(&filter), [0, 3]);
}

#[test]
fn filters_by_role_read_the_label_of_llm_d() {
    const ROLE: &str = "llm-d.ai/role";
    let fixture = Fixture::new(
        0,
        &[
            &[(ROLE, "decode")][..],
            &[(ROLE, "prefill")],
            &[(ROLE, "prefill-decode")],
            &[(ROLE, "encode")],
            &[(ROLE, "encode-prefill")],
            &[],
        ]
        .map(|labels| Load { labels, ..Load::default() }),
    );
    assert_eq!(fixture.filtered(&ByLabel::decode()), [0, 2, 5]);
    assert_eq!(fixture.filtered(&ByLabel::prefill()), [1, 2, 4]);
    assert_eq!(fixture.filtered(&ByLabel::encode()), [3, 4]);
}

#[test]
fn utilization_filter_keeps_endpoints_that_meet_all_conditions() {
    let load = |running, queued, kv| Load {
        running: Some(running),
        queued: Some(queued),
        kv_usage: Some(kv),
        own_in_flight: running + queued,
        ..Load::default()
    };
    let endpoints = [
        load(40.0, 0.0, 0.8),
        load(41.0, 0.0, 0.5),
        load(1.0, 1.0, 0.5),
        load(1.0, 0.0, 0.9),
        Load::default(),
    ];
    let fixture = Fixture::new(0, &endpoints);
    let filter = |conditions: &str| plugin::<Utilization>(&format!("conditions: [{conditions}]"));
    let all = "{metric: running-requests, maxValue: 40}, {metric: waiting-queue, maxValue: 0}, \
               {metric: kv-cache-utilization, maxValue: 0.8}";
    assert_eq!(fixture.filtered(&filter(all)), [0, 4], "an unknown number counts as 0");
    assert_eq!(fixture.filtered(&filter("{metric: active-requests, maxValue: 2}")), [2, 3, 4]);
    let busy = Fixture::new(0, &endpoints[1..4]);
    assert!(busy.filtered(&filter(all)).is_empty());
    let fallback = plugin::<Utilization>(&format!("{{conditions: [{all}], fallbackOnEmpty: true}}"));
    assert_eq!(busy.filtered(&fallback), [0, 1, 2]);
}

#[test]
fn endpoint_attribute_filter_compares_a_number() {
    let running = [Some(1.0), Some(10.0), Some(20.0), None];
    let fixture = Fixture::new(0, &running.map(|running| Load { running, ..Load::default() }));
    for (operator, expected) in [
        ("LessThan", &[0, 3][..]),
        ("LessThanOrEqual", &[0, 1, 3]),
        ("GreaterThan", &[2, 3]),
        ("GreaterThanOrEqual", &[1, 2, 3]),
        ("Equal", &[1, 3]),
        ("NotEqual", &[0, 2, 3]),
    ] {
        let threshold = format!("{{type: threshold, threshold: {{operator: {operator}, value: 10}}}}");
        let filter = plugin::<EndpointAttributeFilter>(&format!(
            "{{attribute: num_requests_running, algorithm: {threshold}}}"
        ));
        assert_eq!(fixture.filtered(&filter), expected, "{operator}");
    }
    let strict = |fallback: bool| {
        plugin::<EndpointAttributeFilter>(&format!(
            "{{attribute: num_requests_running, onMissing: Fail, fallbackOnEmpty: {fallback}, \
             algorithm: {{type: threshold, threshold: {{operator: LessThan, value: 1}}}}}}"
        ))
    };
    assert!(fixture.filtered(&strict(false)).is_empty());
    assert_eq!(fixture.filtered(&strict(true)), [0, 1, 2, 3]);
}

#[test]
fn header_based_testing_filter_keeps_what_the_header_names() {
    let fixture = || Fixture::new(0, &[Load::default(); 3]);
    assert!(fixture().filtered(&HeaderBasedTesting).is_empty());
    for (value, expected) in
        [("10.0.0.1:8002, 10.0.0.1:8000", &[0, 2][..]), ("10.0.0.1", &[0, 1, 2]), ("10.0.0.2", &[])]
    {
        let fixture = fixture().with_header("test-epp-endpoint-selection", value);
        assert_eq!(fixture.filtered(&HeaderBasedTesting), expected, "{value}");
    }
}

#[test]
fn prefix_cache_affinity_filter_is_sticky_until_saturated() {
    let warm = |backlog_tokens: f32| Load {
        matched_blocks: 80,
        own_backlog_bytes: 4.0 * backlog_tokens,
        ..Load::default()
    };
    let lukewarm = Load { matched_blocks: 79, ..Load::default() };
    let filtered = |loads: &[Load], filter: &PrefixCacheAffinity| Fixture::new(100, loads).filtered(filter);
    let filter = PrefixCacheAffinity::default();
    assert_eq!(filtered(&[lukewarm, warm(0.0), warm(1000.0)], &filter), [1, 2]);
    assert_eq!(filtered(&[lukewarm, lukewarm], &filter), [0, 1], "none is warm");
    // 15,928 tokens/s for 18 s.
    assert_eq!(filtered(&[lukewarm, warm(286_000.0)], &filter), [1]);
    assert_eq!(
        filtered(&[lukewarm, warm(287_000.0)], &filter),
        [0, 1],
        "the wait is longer than the penalty"
    );
    let always = plugin::<PrefixCacheAffinity>("maxTTFTPenaltyMs: 0");
    assert_eq!(filtered(&[lukewarm, warm(1e6)], &always), [1]);
    let explores = plugin::<PrefixCacheAffinity>("explorationProbability: 1");
    assert_eq!(filtered(&[lukewarm, warm(0.0)], &explores), [0, 1]);
}
