//! Statuses of resources, computed from the [`Report`](crate::Report) and the current status.
//!
//! Each function returns the JSON of `status`. Conditions and entries of other controllers are kept.

mod conditions;
mod gateways;
mod parents;
mod quotas;
mod rewrites;

pub use self::{
    gateways::{Reach, class_status, gateway_status},
    parents::{has_ours, policy_status, pool_status, route_status},
    quotas::{QuotaCounting, quota_status},
    rewrites::rewrite_status,
};
