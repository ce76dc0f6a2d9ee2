//! Names that resources and headers are matched by.

use forebay_grpc::names::{BASE_MODEL_NAME, MODEL_NAME};
use http::HeaderName;

/// `spec.controllerName` of the GatewayClasses that Forebay serves.
pub const CONTROLLER_NAME: &str = "forebay.dev/gateway";

/// API group of Gateway, HTTPRoute and ReferenceGrant.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Kind of the routes that are supported.
pub const HTTP_ROUTE: &str = "HTTPRoute";
/// API group of InferencePool.
pub const POOL_GROUP: &str = "inference.networking.k8s.io";
/// Kind of inference pools.
pub const POOL_KIND: &str = "InferencePool";

/// Header with the model that the request asks for; set by the gateway from the body.
pub const MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(MODEL_NAME);
/// Header with the base model of [`MODEL_NAME_HEADER`]; what HTTPRoutes match on.
pub const BASE_MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(BASE_MODEL_NAME);

/// Request header by which a client of a trusted listener asks for an explanation: `1`.
pub const EXPLAIN: &str = "x-forebay-explain";
/// Response header with the explanation, as JSON.
pub const EXPLANATION: &str = "x-forebay-explanation";

/// Whether the gateway sets this header from the body.
pub(crate) fn is_model_header(name: &HeaderName) -> bool {
    *name == BASE_MODEL_NAME_HEADER || *name == MODEL_NAME_HEADER
}
