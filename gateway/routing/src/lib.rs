//! From resources to routes: a snapshot of the store is compiled into an
//! immutable table, and requests are matched against that.

mod backend;
pub mod bench;
mod certificate;
mod compile;
mod describe;
mod filters;
mod hostname;
mod index;
mod listener;
mod matching;
mod models;
pub mod report;
mod retry;
mod rewrites;
mod rule;
mod settle;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod trust;

use forebay_grpc::names::{BASE_MODEL_NAME, MODEL_NAME};
use http::HeaderName;

use backend::random;
pub use backend::{Backend, FailureMode, PickerAddresses, Pool, PoolPicker};
pub use certificate::Certificates;
pub use compile::compile;
pub use filters::{Filters, Mirror, Preflight};
pub use report::Report;
pub use retry::RetryPolicy;
pub use rewrites::Rewrites;
pub use rule::Rule;
pub use settle::{Settled, Settling};
pub use table::{BeforeBody, ListenerPort, ListenerRoutes, Matched, PortSharing, RouteTable};

pub const MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(MODEL_NAME);
pub const BASE_MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(BASE_MODEL_NAME);

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The headers that the gateway sets from the body.
fn is_model_header(name: &HeaderName) -> bool {
    *name == BASE_MODEL_NAME_HEADER || *name == MODEL_NAME_HEADER
}
