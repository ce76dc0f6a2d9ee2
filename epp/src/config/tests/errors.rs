use super::super::{Config, Options};

/// Fields after `apiVersion` and `kind`, and the error.
const FIELDS: &[(&str, &str)] = &[
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: default\n  plugins:\n  \
         - {pluginRef: queue-scorer, wieght: 2}",
        "schedulingProfiles[0].plugins[0].wieght: unknown field `wieght`, expected `pluginRef` or `weight`",
    ),
    (
        "plugin: []",
        "plugin: unknown field `plugin`, expected one of `apiVersion`, `kind`, `featureGates`, `plugins`, \
         `schedulingProfiles`, `dataLayer`, `flowControl`, `requestHandler`, `saturationDetector`, `parser`",
    ),
    (
        "plugins: [{type: queue-scorer}, {type: lmetric-scorer, name: queue-scorer}]",
        "plugins[1].name: \"queue-scorer\" is already the name of plugins[0]; set another `name`",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- {name: default, plugins: [{pluginRef: queue}]}",
        "schedulingProfiles[0].plugins[0].pluginRef: no plugin has the name \"queue\"; plugins: queue-scorer",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n\
         - {name: default, plugins: [{pluginRef: queue-scorer, weight: -1}]}",
        "schedulingProfiles[0].plugins[0].weight: -1 is not a number of at least 0",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n\
         - {name: default, plugins: [{pluginRef: queue-scorer, weight: .nan}]}",
        "schedulingProfiles[0].plugins[0].weight: NaN is not a number of at least 0",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n\
         - {name: default, plugins: [{pluginRef: queue-scorer, weight: .inf}]}",
        "schedulingProfiles[0].plugins[0].weight: inf is not a number of at least 0",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n\
         - {name: default, plugins: [{pluginRef: queue-scorer, weight: two}]}",
        "schedulingProfiles[0].plugins[0].weight: invalid type: string \"two\", expected f64",
    ),
    (
        "plugins: [{type: queue-scorer, parameters: {threshold: 1}}]",
        "plugins[0].parameters.threshold: unknown field `threshold`, there are no fields",
    ),
    (
        "plugins: [{type: token-load-scorer, parameters: {queueThresholdTokens: many}}]",
        "plugins[0].parameters.queueThresholdTokens: invalid type: string \"many\", expected f32",
    ),
    (
        "plugins: [{type: load-aware-scorer, parameters: {threshold: 0}}]",
        "plugins[0].parameters.threshold: 0 is not a number greater than 0",
    ),
    (
        "plugins: [{type: prefix-cache-scorer, parameters: {matchLengthWeight: 1.5}}]",
        "plugins[0].parameters.matchLengthWeight: 1.5 is not a number from 0 to 1",
    ),
    (
        "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: other}}]",
        "plugins[0].parameters.prefixMatchInfoProducerName: no plugin has the name \"other\"",
    ),
    (
        "plugins: [{type: utilization-filter, parameters: {conditions: [{metric: gpu, maxValue: 1}]}}]",
        "plugins[0].parameters.conditions[0].metric: unknown variant `gpu`, expected one of `active-requests`, \
         `running-requests`, `waiting-queue`, `kv-cache-utilization`",
    ),
    (
        "plugins: [{type: utilization-filter, parameters: {conditions: [{metric: kv-cache-utilization, maxValue: 80}]}}]",
        "plugins[0].parameters.conditions: the maxValue of kv-cache-utilization is a fraction; 80 is not a number from \
         0 to 1",
    ),
    (
        "plugins:\n- type: endpoint-attribute-scorer\n  parameters: {attributeKey: GPUUtilization, algorithm: {type: \
         linear_lower_is_better}}",
        "plugins[0].parameters.attributeKey: endpoints have no attribute \"GPUUtilization\"; they have \
         num_requests_running, num_requests_waiting, kv_cache_usage_perc, requests_in_flight",
    ),
    (
        "plugins:\n- type: endpoint-attribute-scorer\n  parameters: {attributeKey: GPUUtilization, producer: \
         dcgm-extractor, algorithm: {type: linear_lower_is_better}}",
        "plugins[0].parameters.producer: only \"core-metrics-extractor\" is supported",
    ),
    (
        "plugins: [{type: label-selector-filter, parameters: {matchExpressions: [{key: a, operator: In}]}}]",
        "plugins[0].parameters.matchExpressions: operator In of \"a\" needs values",
    ),
    (
        "plugins: [{type: session-affinity-scorer, parameters: {strategy: cookie}}]",
        "plugins[0].parameters.strategy: unknown variant `cookie`, expected `encoded_endpoint_header` or `session_id`",
    ),
    (
        "plugins:\n- type: session-affinity-scorer\n  parameters: {sessionIdConfig: {sources: [{attribute: agent-identity}]}}",
        "plugins[0].parameters.sessionIdConfig.sources[0].attribute: unknown field `attribute`, expected `header`",
    ),
    ("plugins: [{type: by-label}]", "plugins[0].parameters: missing field `label`"),
    (
        "plugins: [{type: max-score-picker, parameters: {maxNumOfEndpoints: 0}}]",
        "plugins[0].parameters.maxNumOfEndpoints: invalid value: integer `0`, expected a nonzero usize",
    ),
    (
        "plugins: [{type: queue-scorer, parameters: 5}]",
        "plugins[0].parameters: is not a map of names to values",
    ),
    (
        "plugins: [{type: approx-prefix-cache-producer, parameters: {block: 5}}]",
        "plugins[0].parameters.block: unknown field `block`, expected one of `autoTune`, `blockSizeTokens`, `blockSize`, \
         `maxPrefixBlocksToMatch`, `maxPrefixTokensToMatch`, `lruCapacityPerServer`",
    ),
    (
        "plugins: [{type: random-picker}, {type: max-score-picker}]",
        "schedulingProfiles[0].plugins[1].pluginRef: a profile has one picker; this is the second",
    ),
    (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n\
         - {name: default, plugins: [{pluginRef: queue-scorer}, {pluginRef: queue-scorer}]}",
        "schedulingProfiles[0].plugins[1].pluginRef: \"queue-scorer\" is already in this profile",
    ),
    (
        "schedulingProfiles: [{name: default}, {name: long}]",
        "schedulingProfiles[1]: profile \"long\" would never be used; only one profile is supported",
    ),
    (
        "dataLayer: {sources: [{pluginRef: a}]}",
        "dataLayer.sources[0].pluginRef: no plugin has the name \"a\"; plugins: none",
    ),
    (
        "flowControl: {priorityBands: [{priority: 1, orderingPolicyRef: lifo}]}",
        "flowControl.priorityBands[0].orderingPolicyRef: no plugin has the name \"lifo\"; plugins: none",
    ),
    (
        "dataLayer: {discovery: {endpoints: {pluginRef: file-discovery}}}",
        "dataLayer.discovery: is not supported: endpoints come from the cluster, or from the folder of --resources",
    ),
    (
        "featureGates: [flowControl]",
        "featureGates[0]: flowControl is not supported: requests are neither queued nor rejected by saturation",
    ),
    (
        "featureGates: [fast]",
        "featureGates[0]: unknown feature gate \"fast\"; known gates: flowControl, haPopulateNonLeaderDatastore, \
         dataLayer, prepareDataPlugins",
    ),
    (
        "plugins: [{type: disagg-profile-handler}]",
        "plugins[0].type: disagg-profile-handler is not supported: disaggregated prefill and decode is not supported: \
         one endpoint serves a request",
    ),
    (
        "plugins: [{type: precise-prefix-cache-producer}]",
        "plugins[0].type: precise-prefix-cache-producer is not supported: KV cache events of engines are not read; use \
         approx-prefix-cache-producer, or no producer, with prefix-cache-scorer",
    ),
];

fn error(text: &str) -> String {
    match Config::parse(text, Options::default()) {
        Ok(config) => panic!("accepted: {config:?}\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_name_the_field_and_the_reason() {
    let mut wrong = Vec::new();
    for (fields, expected) in FIELDS {
        let found = error(&format!("apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\n{fields}"));
        let expected = format!("the configuration is invalid: {expected}");
        if found != expected {
            wrong.push(format!("{fields}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_of_the_document() {
    for (text, expected) in [
        (
            "",
            "the configuration is invalid: document: is empty; it needs `apiVersion` and `kind: EndpointPickerConfig`",
        ),
        ("kind: EndpointPickerConfig", "the configuration is invalid: document: missing field `apiVersion`"),
        (
            "apiVersion: llm-d.ai/v2\nkind: EndpointPickerConfig",
            "the configuration is invalid: apiVersion: unknown version \"llm-d.ai/v2\"; known versions: llm-d.ai/v1, \
             llm-d.ai/v1alpha1, inference.networking.x-k8s.io/v1alpha1",
        ),
        (
            "apiVersion: llm-d.ai/v1\nkind: ConfigMap",
            "the configuration is invalid: kind: is \"ConfigMap\"; expected \"EndpointPickerConfig\"",
        ),
        (
            "a: [",
            "the configuration is neither YAML nor JSON: did not find expected node content at line 2 column 1, while \
             parsing a flow node",
        ),
        ("kind: a\nkind: b", "the configuration is neither YAML nor JSON: duplicate entry with key \"kind\""),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    let found = error("apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\nplugins: [{type: queue}]");
    let expected = "the configuration is invalid: plugins[0].type: unknown plugin type \"queue\"; known types: \
                    active-request-scorer, added-waiting-scorer, ";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn names_the_file_that_cannot_be_read() {
    let error =
        Config::read("/nonexistent/plugins.yaml".as_ref(), Options::default()).unwrap_err().to_string();
    let expected =
        "cannot read the configuration /nonexistent/plugins.yaml: No such file or directory (os error 2)";
    assert_eq!(error, expected);
}
