//! From resources to routes: a snapshot of the store is compiled into an
//! immutable table, and requests are matched against that.

mod backend;
mod cel;
mod compile;
mod hostname;
mod matching;
mod models;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;

pub(crate) use backend::{Backend, FailureMode, PickerAddresses, Pool, PoolPicker, Schedulers};
pub(crate) use compile::compile;
pub(crate) use table::{ListenerRoutes, RouteTable};
