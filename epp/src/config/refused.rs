//! Types of plugins of the ecosystem that are refused, because a request would be handled differently than the document says.

const DISAGGREGATED: &str =
    "disaggregated prefill and decode is not supported: one endpoint serves a request";
const PRECISE: &str = "KV cache events of engines are not read; use approx-prefix-cache-producer, or no producer, with prefix-cache-scorer";
const PREDICTED: &str =
    "there is no latency predictor; added-waiting-scorer estimates the waiting from measured speeds";
const FLOW: &str = "requests are neither queued nor rejected by saturation";
const CLUSTERS: &str = "endpoints of other clusters are not supported";
const TOPOLOGY: &str = "the topology of nodes is not known to the picker; use label-selector-filter or header-label-affinity-scorer";
const MULTIMODAL: &str = "caches of multimodal embeddings are not tracked";
const API: &str = "only the APIs of OpenAI, Anthropic and vLLM over HTTP are read";
const EXPERIMENTAL: &str = "this experimental plugin is not implemented";

/// Type and reason.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("disagg-profile-handler", DISAGGREGATED),
    ("pd-profile-handler", DISAGGREGATED),
    ("disagg-headers-handler", DISAGGREGATED),
    ("prefill-header-handler", DISAGGREGATED),
    (
        "data-parallel-profile-handler",
        "list the ports of the ranks in the InferencePool's targetPorts instead",
    ),
    ("header-profile-handler", "there is one scheduling profile for all requests"),
    ("prefix-based-pd-decider", DISAGGREGATED),
    ("always-disagg-pd-decider", DISAGGREGATED),
    ("always-disagg-multimodal-decider", DISAGGREGATED),
    ("disaggregatedset-rollout-screener", DISAGGREGATED),
    ("disaggregatedset-rollout-pod-extractor", DISAGGREGATED),
    ("p2p-source-producer", DISAGGREGATED),
    ("precise-prefix-cache-scorer", PRECISE),
    ("precise-prefix-cache-producer", PRECISE),
    (
        "burst-prefix-cache-producer",
        "not needed: the prefix index contains a pick as soon as it is made; leave it out",
    ),
    ("predicted-latency-producer", PREDICTED),
    ("latency-scorer", PREDICTED),
    ("latency-observation-scorer", PREDICTED),
    ("latency-slo-admitter", PREDICTED),
    ("slo-headroom-tier-filter", PREDICTED),
    ("mrl-scorer-hub", PREDICTED),
    ("probabilistic-admitter", FLOW),
    ("topology-affinity-scorer", TOPOLOGY),
    ("topology-affinity-filter", TOPOLOGY),
    ("mm-embeddings-cache-scorer", MULTIMODAL),
    ("mm-embeddings-cache-producer", MULTIMODAL),
    ("multicluster-session-affinity-filter", CLUSTERS),
    ("multicluster-queue-scorer", CLUSTERS),
    ("multicluster-kv-cache-utilization-scorer", CLUSTERS),
    ("multicluster-prefix-cache-scorer", CLUSTERS),
    ("multicluster-approx-prefix-cache-producer", CLUSTERS),
    ("multicluster-metrics-data-source", CLUSTERS),
    ("multicluster-metrics-extractor", CLUSTERS),
    ("multicluster-file-discovery", CLUSTERS),
    ("file-discovery", "endpoints come from the cluster, or from the folder of --resources"),
    ("vllmgrpc-parser", API),
    ("sglanghttp-parser", API),
    ("vertexai-parser", API),
    ("destination-endpoint-served-verifier", EXPERIMENTAL),
    ("request-attribute-reporter", EXPERIMENTAL),
];
