use clap::ValueEnum as _;

use super::super::{Config, Options, Policy};

/// A document of each version, with everything that has no effect.
const FULL: &str = r#"
apiVersion: VERSION
kind: EndpointPickerConfig
featureGates: [dataLayer, prepareDataPlugins=true, flowControl=false, haPopulateNonLeaderDatastore]
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- name: prefix
  type: prefix-cache-scorer
  parameters:
    prefixMatchInfoProducerName: approx-prefix-cache-producer
    matchLengthWeight: 0.25
- type: approx-prefix-cache-producer
  parameters:
    maxPrefixTokensToMatch: 16384
    lruCapacityPerServer: 31250
- type: inflight-load-producer
  parameters: {addEstimatedOutputTokens: true, outputRatio: 1.5}
- type: metrics-data-source
  parameters: {scheme: http, path: /metrics, insecureSkipVerify: true}
- type: core-metrics-extractor
- type: openai-parser
- type: utilization-detector
  parameters: {queueDepthThreshold: 5, kvCacheUtilThreshold: 0.8, metricsStalenessThreshold: 200ms}
- type: decode-filter
- type: max-score-picker
  parameters: {maxNumOfEndpoints: 2}
- type: single-profile-handler
dataLayer:
  injectDefaults: true
  sources:
  - pluginRef: metrics-data-source
    extractors:
    - pluginRef: core-metrics-extractor
flowControl:
  maxBytes: 1Gi
  maxRequests: 100
  defaultRequestTTL: 60s
  defaultPriorityBand: {priority: 0, fairnessPolicyRef: round-robin-fairness-policy}
  priorityBands:
  - {priority: 10, maxBytes: "1073741824", orderingPolicyRef: fcfs-ordering-policy}
  saturationDetector: {pluginRef: utilization-detector}
requestHandler:
  parsers:
  - pluginRef: openai-parser
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: decode-filter
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2.5}
  - pluginRef: prefix
  - pluginRef: max-score-picker
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, Options::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn reads_documents_of_all_versions() {
    for version in ["llm-d.ai/v1", "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"] {
        let config = parse(&FULL.replace("VERSION", version));
        let scorers: Vec<_> = config.pipeline.scorers().collect();
        let expected = [("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.5), ("prefix", 1.0)];
        assert_eq!(scorers, expected);
        assert_eq!(config.pipeline.max_endpoints(), Some(2));
        assert!(config.pipeline.needs().prompt);
        let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
        let expected = "no effect: metrics-data-source, core-metrics-extractor, dataLayer \
                        (Forebay's agents deliver metrics, and the picker watches the cluster itself)";
        assert!(notices.iter().any(|notice| notice == expected), "{notices:#?}");
        assert_eq!(notices.len(), 6, "one for each reason: {notices:#?}");
    }
}

#[test]
fn reads_json() {
    let text = r#"{"apiVersion": "llm-d.ai/v1", "kind": "EndpointPickerConfig",
                   "plugins": [{"type": "random-picker"}, {"type": "active-request-scorer"}]}"#;
    let config = parse(text);
    assert_eq!(config.pipeline.scorers().collect::<Vec<_>>(), [("active-request-scorer", 1.0)]);
    assert!(!config.pipeline.needs().prompt);
}

/// Sample documents of llm-d-router, without their comments.
#[test]
fn reads_sample_documents_of_the_ecosystem() {
    let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
    for (body, scorers) in [
        (
            "plugins:\n- type: passthrough-parser\n- type: active-request-scorer\n- type: session-affinity-scorer\n\
             requestHandler:\n  parsers:\n  - pluginRef: passthrough-parser\nschedulingProfiles:\n- name: default\n  \
             plugins:\n  - {pluginRef: active-request-scorer, weight: 1}\n  - {pluginRef: session-affinity-scorer, weight: 1}\n",
            &["active-request-scorer", "session-affinity-scorer"][..],
        ),
        (
            "plugins:\n- type: prefix-cache-affinity-filter\n  name: prefix-affinity\n  parameters:\n    \
             affinityThreshold: 0.80\n    explorationProbability: 0.01\n    maxTTFTPenaltyMs: 5000\n    \
             ttftSource: prefillThroughput\n- type: token-load-scorer\nschedulingProfiles:\n- name: default\n  plugins:\n  \
             - pluginRef: prefix-affinity\n  - pluginRef: token-load-scorer\n",
            &["token-load-scorer"],
        ),
        (
            "plugins:\n- type: token-producer\n  parameters:\n    modelName: a/b\n    vllm: {url: 'http://localhost:8000'}\n\
             - type: context-length-aware\n  parameters: {enableFiltering: true}\n- type: load-aware-scorer\n\
             - type: max-score-picker\nschedulingProfiles:\n- name: default\n  plugins:\n  \
             - {pluginRef: context-length-aware, weight: 3}\n  - {pluginRef: load-aware-scorer, weight: 1}\n  \
             - pluginRef: max-score-picker\n",
            &["context-length-aware", "load-aware-scorer"],
        ),
        (
            "plugins:\n- type: endpoint-attribute-filter\n  name: drop\n  parameters:\n    attribute: num_requests_running\n    \
             onMissing: Pass\n    fallbackOnEmpty: true\n    algorithm:\n      type: threshold\n      \
             threshold: {operator: LessThan, value: 10}\n- type: utilization-filter\n  parameters:\n    conditions:\n    \
             - {metric: running-requests, maxValue: 40}\n    - {metric: waiting-queue, maxValue: 0}\n    \
             - {metric: kv-cache-utilization, maxValue: 0.8}\n    fallbackOnEmpty: true\n\
             - type: no-hit-lru-scorer\n  parameters: {lruSize: 2048, prefixPluginName: cache}\n",
            &["no-hit-lru-scorer"],
        ),
    ] {
        let config = parse(&format!("{head}{body}"));
        assert_eq!(config.pipeline.scorers().map(|(name, _)| name).collect::<Vec<_>>(), scorers, "{body}");
    }
}

#[test]
fn builds_every_policy() {
    for policy in Policy::value_variants() {
        let config = policy.config().unwrap_or_else(|error| panic!("{policy:?}: {error}"));
        assert_eq!(config.notices, []);
    }
    let forebay = Policy::default().config().unwrap();
    assert_eq!(forebay.pipeline.scorers().collect::<Vec<_>>(), [("added-waiting-scorer", 1.0)]);
}

#[test]
fn experimental_plugins_need_the_option() {
    let text =
        "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\nplugins: [{type: header-based-testing-filter}]";
    let error = Config::parse(text, Options::default()).unwrap_err().to_string();
    assert!(error.ends_with("header-based-testing-filter needs --allow-experimental-plugins"), "{error}");
    Config::parse(text, Options { allows_experimental: true }).unwrap();
}

#[test]
fn the_chart_knows_every_policy() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/inferencepool/values.schema.json");
    let schema: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let known = schema.pointer("/properties/inferenceExtension/properties/policy/enum").unwrap();
    let names =
        Policy::value_variants().iter().map(|it| it.to_possible_value().unwrap().get_name().to_owned());
    let expected: Vec<String> = [String::new()].into_iter().chain(names).collect();
    assert_eq!(*known, serde_json::json!(expected));
}

/// Plugins keep state, such as the endpoints of sessions.
#[test]
fn each_pool_has_a_pipeline_of_its_own() {
    let text = "{apiVersion: llm-d.ai/v1, kind: EndpointPickerConfig, plugins: [{type: queue-scorer}]}";
    let pipelines = parse(text).into_pipelines();
    let [one, other] = [pipelines.for_pool(), pipelines.for_pool()];
    assert!(!std::sync::Arc::ptr_eq(&one, &other));
    let scorers = |pipeline: &crate::schedule::Pipeline| {
        pipeline.scorers().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!([scorers(&one), scorers(&other)], [["queue-scorer"], ["queue-scorer"]]);
}
