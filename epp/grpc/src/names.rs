//! Names of the Endpoint Picker Protocol (Gateway API Inference Extension, proposal 004, v1.0.0) in ext_proc messages.

/// The picked endpoint, as `ip:port[,ip:port…]`. Further endpoints are fallbacks, for gateways that
/// [accept a list](TAKES_ENDPOINT_LIST). A request header that the picker sets, and a key in [`METADATA_LB`].
pub const DESTINATION_ENDPOINT: &str = "x-gateway-destination-endpoint";
/// The endpoints that may be picked. Key in [`METADATA_SUBSET_HINT`].
pub const DESTINATION_ENDPOINT_SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The endpoint that produced the response. Key in [`METADATA_LB`], sent by the gateway with the response headers.
pub const DESTINATION_ENDPOINT_SERVED: &str = "x-gateway-destination-endpoint-served";

/// Request header: the `model` of the request body, as the client sent it.
pub const MODEL_NAME: &str = "x-gateway-model-name";
/// Request header: the base model that `model` maps to. HTTPRoutes match on it.
pub const BASE_MODEL_NAME: &str = "x-gateway-base-model-name";
/// Request header: the model that replaces the model of the body, where the client may set it.
pub const MODEL_NAME_REWRITE: &str = "x-llm-d-model-name-rewrite";
/// Older name of [`MODEL_NAME_REWRITE`], which has precedence.
pub const MODEL_NAME_REWRITE_ALIAS: &str = "x-gateway-model-name-rewrite";

/// Metadata namespace of the picked and of the served endpoint.
pub const METADATA_LB: &str = "envoy.lb";
/// Metadata namespace of the subset hint.
pub const METADATA_SUBSET_HINT: &str = "envoy.lb.subset_hint";

/// Metadata namespace of hints between Forebay's picker and Forebay's gateway. Others ignore it.
pub const METADATA_FOREBAY: &str = "forebay.dev";
/// The InferencePool of the request, as `namespace/name`, for a picker of many pools. Key in [`METADATA_FOREBAY`], sent by the
/// gateway with the request headers.
pub const POOL: &str = "pool";
/// The picker does not change the response, so the gateway need not wait for its replies to it. Key in
/// [`METADATA_FOREBAY`].
pub const RESPONSE_UNCHANGED: &str = "response-unchanged";

/// The gateway asks for the [`EXPLANATION`] of the decision (`true`). Key in [`METADATA_FOREBAY`], sent with the request
/// headers.
pub const EXPLAIN: &str = "explain";
/// How the endpoint was chosen: a JSON document. Key in [`METADATA_FOREBAY`], with the decision or the error of a request
/// whose gateway [asks](EXPLAIN) for it.
pub const EXPLANATION: &str = "explanation";
/// The gateway asks which endpoint would be picked, and sends it no request (`true`). Key in [`METADATA_FOREBAY`], sent with
/// the request headers.
pub const RESERVE: &str = "reserve";
/// Value of the request header `Prefer` (RFC 7240) of a client that asks which endpoint would be picked.
pub const RESERVE_ENDPOINT: &str = "reserve-endpoint";
/// Response header with this endpoint, as `ip:port`. The response is a 204.
pub const RESERVED_ENDPOINT: &str = "x-llm-d-reserved-host-port";

/// The picker reads prompts, and takes them in messages of [`PROMPT_VERSION`] (the value, a number). Key in
/// [`METADATA_FOREBAY`], with the decision.
pub const TAKES_PROMPT: &str = "takes-prompt";
/// Initial metadata of a stream: the gateway can send prompts in messages of [`PROMPT_VERSION`] (the value).
pub const SENDS_PROMPT: &str = "x-forebay-sends-prompt";
/// Version of [`proto::Prompt`](crate::proto::Prompt). A gateway and a picker with different versions send and read bodies.
pub const PROMPT_VERSION: u8 = 1;
/// Type of a [`proto::Prompt`](crate::proto::Prompt) in the typed metadata of a message, under [`METADATA_FOREBAY`].
pub const PROMPT_TYPE: &str = "type.googleapis.com/forebay.ext_proc.v1.Prompt";

/// Initial metadata of a stream (a gRPC header): the gateway accepts a list of endpoints in [`DESTINATION_ENDPOINT`]. Any
/// value. Without it the picker sends one endpoint: the protocol has lists, but many gateways parse the value as one
/// address. Envoy can set it with `initial_metadata` of the `grpc_service` of its ext_proc filter.
pub const TAKES_ENDPOINT_LIST: &str = "x-forebay-takes-endpoint-list";

/// Maximum bytes of body in one streamed reply. Envoy rejects 64 KiB or more; the reference picker sends this size.
pub const MAX_STREAMED_BODY_BYTES: usize = 62_000;
