//! The names that carry the Endpoint Picker Protocol (proposal 004, v1.0.0) in ext_proc messages.

/// The endpoint to send the request to, and, for gateways that [take them](TAKES_ENDPOINT_LIST), those to try after
/// it: `ip:port[,ip:port…]`. A request header set by the picker, and the key of the same value in [`METADATA_LB`].
pub const DESTINATION_ENDPOINT: &str = "x-gateway-destination-endpoint";
/// The endpoints that may be picked; key in [`METADATA_SUBSET_HINT`].
pub const DESTINATION_ENDPOINT_SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The endpoint that produced the response; key in [`METADATA_LB`], from the
/// gateway with the response headers.
pub const DESTINATION_ENDPOINT_SERVED: &str = "x-gateway-destination-endpoint-served";

/// The `model` of the request body, as the client sent it.
pub const MODEL_NAME: &str = "x-gateway-model-name";
/// The base model that `model` maps to; what HTTPRoutes match on.
pub const BASE_MODEL_NAME: &str = "x-gateway-base-model-name";
/// A request header with the model to take in place of the body's, where the client may say that.
pub const MODEL_NAME_REWRITE: &str = "x-llm-d-model-name-rewrite";
/// The older name of [`MODEL_NAME_REWRITE`], which comes second.
pub const MODEL_NAME_REWRITE_ALIAS: &str = "x-gateway-model-name-rewrite";

/// Metadata namespace of the picked and of the served endpoint.
pub const METADATA_LB: &str = "envoy.lb";
/// Metadata namespace of the subset hint.
pub const METADATA_SUBSET_HINT: &str = "envoy.lb.subset_hint";

/// Metadata namespace of what Forebay's picker tells Forebay's gateway; others pass over it.
pub const METADATA_FOREBAY: &str = "forebay.dev";
/// The picker only listens to the response: nobody needs to wait for its reply. Key in [`METADATA_FOREBAY`].
pub const RESPONSE_UNCHANGED: &str = "response-unchanged";

/// Initial metadata of a stream (a gRPC header) whose gateway can go down a list of endpoints, and takes one in
/// [`DESTINATION_ENDPOINT`]; any value. All others are given one endpoint: the protocol knows lists, but many gateways
/// take all of it for one address. Envoy says it with `initial_metadata` of its ext_proc filter's `grpc_service`.
pub const TAKES_ENDPOINT_LIST: &str = "x-forebay-takes-endpoint-list";

/// Bytes of body in one streamed reply. Envoy takes less than 64 KiB; this is
/// what the ecosystem's pickers send.
pub const MAX_STREAMED_BODY_BYTES: usize = 62_000;
