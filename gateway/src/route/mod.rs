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
pub(crate) mod report;
mod retry;
mod rewrites;
mod rule;
mod settle;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod trust;

use forebay_epp::protocol::{BASE_MODEL_NAME, MODEL_NAME};
use http::HeaderName;

use backend::random;
pub(crate) use backend::{Backend, FailureMode, PickerAddresses, Pool, PoolPicker, Schedulers};
pub(crate) use certificate::Certificates;
pub(crate) use compile::compile;
pub(crate) use filters::{Filters, Mirror, Preflight};
pub(crate) use report::Report;
pub(crate) use retry::RetryPolicy;
pub(crate) use rewrites::Rewrites;
pub(crate) use rule::Rule;
pub(crate) use settle::{Settled, Settling};
pub(crate) use table::{BeforeBody, ListenerPort, ListenerRoutes, Matched, PortSharing, RouteTable};

pub(crate) const MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(MODEL_NAME);
pub(crate) const BASE_MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(BASE_MODEL_NAME);

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The headers that the gateway sets from the body.
fn is_model_header(name: &HeaderName) -> bool {
    *name == BASE_MODEL_NAME_HEADER || *name == MODEL_NAME_HEADER
}
