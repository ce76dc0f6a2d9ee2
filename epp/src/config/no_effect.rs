//! Types of plugins of the ecosystem that are accepted and change nothing, because what they do is always done or never
//! happens.

const AGENTS: &str = "Forebay's agents deliver metrics, and the picker watches the cluster itself";
const BYTES: &str =
    "prompts are compared in blocks of 256 bytes, and capacities are those that engines report";
const LEDGER: &str = "the picker always counts its requests; uncached bytes of the prompt count until the first byte of the response";
const PARSER: &str = "the APIs of OpenAI, Anthropic and vLLM are always read";
const FLOW: &str = "requests are neither queued nor rejected by saturation";
const HANDLER: &str = "the only profile handler";
const SESSION: &str = "session-affinity plugins read headers themselves";

/// Type and reason.
pub(super) const NO_EFFECT: &[(&str, &str)] = &[
    ("single-profile-handler", HANDLER),
    ("metrics-data-source", AGENTS),
    ("core-metrics-extractor", AGENTS),
    ("models-data-source", AGENTS),
    ("models-data-extractor", AGENTS),
    ("dcgm-data-source", AGENTS),
    ("dcgm-extractor", AGENTS),
    ("topology-extractor", AGENTS),
    ("k8s-notification-source", AGENTS),
    ("endpoint-notification-source", AGENTS),
    ("local-syncer", LEDGER),
    ("approx-prefix-cache-producer", BYTES),
    ("token-producer", BYTES),
    ("tokenizer", BYTES),
    ("inflight-load-producer", LEDGER),
    ("session-id-producer", SESSION),
    ("agent-identity", SESSION),
    ("openai-parser", PARSER),
    ("anthropic-parser", PARSER),
    ("vllmhttp-parser", PARSER),
    ("passthrough-parser", PARSER),
    ("utilization-detector", FLOW),
    ("concurrency-detector", FLOW),
    ("global-strict-fairness-policy", FLOW),
    ("round-robin-fairness-policy", FLOW),
    ("program-aware-fairness", FLOW),
    ("fcfs-ordering-policy", FLOW),
    ("edf-ordering-policy", FLOW),
    ("slo-deadline-ordering-policy", FLOW),
    ("static-usage-limit-policy", FLOW),
    ("priority-holdback-policy", FLOW),
    ("soft-reflective-ceiling-policy", FLOW),
    ("sheddable-eviction-filter", FLOW),
    ("priority-then-time-eviction-order-policy", FLOW),
];

/// Fields of documents that change nothing.
pub(super) const FIELD_DATA_LAYER: &str = AGENTS;
pub(super) const FIELD_FLOW_CONTROL: &str = FLOW;
pub(super) const FIELD_PARSERS: &str = PARSER;

/// Parameters that are known and change nothing. Those that name a producer must name a plugin.
pub(super) const PARAMETERS: &[(&str, &[&str])] = &[
    ("active-request-scorer", &["requestTimeout", "inFlightLoadProducerName"]),
    ("token-load-scorer", &["inFlightLoadProducerName"]),
    ("prefix-cache-scorer", &["prefixMatchInfoProducerName"]),
    ("no-hit-lru-scorer", &["prefixPluginType", "prefixPluginName", "prefixMatchInfoProducerName"]),
    ("utilization-filter", &["inFlightLoadProducerName"]),
    ("prefix-cache-affinity-filter", &["prefixMatchInfoProducerName", "inFlightLoadProducerName"]),
    ("session-affinity-scorer", &["profileName"]),
    ("session-affinity-filter", &["profileName"]),
];

/// The known parameters of producers that have some.
pub(super) const PRODUCER_PARAMETERS: &[(&str, &[&str])] = &[
    (
        "approx-prefix-cache-producer",
        &[
            "autoTune",
            "blockSizeTokens",
            "blockSize",
            "maxPrefixBlocksToMatch",
            "maxPrefixTokensToMatch",
            "lruCapacityPerServer",
        ],
    ),
    (
        "inflight-load-producer",
        &[
            "addEstimatedOutputTokens",
            "outputRatio",
            "maxEstimatedOutputTokens",
            "prefixMatchInfoProducerName",
            "syncCrossReplicaState",
        ],
    ),
    ("token-producer", &["modelName", "vllm", "estimate", "udsTokenizerConfig"]),
    ("session-id-producer", &["headerName", "cookieName"]),
    (
        "utilization-detector",
        &["queueDepthThreshold", "kvCacheUtilThreshold", "metricsStalenessThreshold", "headroom"],
    ),
    (
        "concurrency-detector",
        &["maxConcurrency", "headroom", "concurrencyMode", "maxTokenConcurrency", "inFlightLoadProducerName"],
    ),
    ("single-profile-handler", &[]),
];
