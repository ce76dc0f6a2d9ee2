//! The routing table: immutable, read by every request without a lock.

mod backend;
mod describe;
mod entry;
mod filters;
mod hostname;
mod index;
mod listener;
mod matching;
mod models;
mod port;
mod retry;
mod rewrites;
mod rule;
mod timeouts;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::backend::{
    Backend, FailureMode, ModelsCredential, PickerAddresses, Pool, PoolPicker, ServiceBackend,
};
pub(crate) use self::entry::Entry;
pub use self::entry::{BeforeBody, Matched};
pub use self::filters::{Cors, Filters, HeaderChange, Mirror, Preflight, Redirect, UrlRewrite};
pub(crate) use self::hostname::Hostname;
pub use self::listener::{ListenerRoutes, PortRoutes};
pub(crate) use self::matching::Match;
pub use self::models::ModelMap;
pub use self::port::{ListenerPort, PortSharing};
pub use self::retry::RetryPolicy;
pub use self::rewrites::{Rewrites, Targets};
pub use self::rule::{Backends, Rule, Weighted};
pub use self::timeouts::Timeouts;

/// All routes of one snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Listeners by port.
    pub ports: BTreeMap<ListenerPort, Arc<PortRoutes>>,
    /// The InferencePools that rules refer to; [`Pool::index`] is the position.
    pub pools: Vec<Arc<Pool>>,
    /// What is invalid or not supported in the resources, one line each.
    pub problems: BTreeSet<String>,
}

impl RouteTable {
    /// Addresses of the endpoint pickers of all pools, each with the pool's namespace.
    pub fn picker_addresses(&self) -> HashSet<(SocketAddr, Arc<str>)> {
        let services = self.pools.iter().filter_map(|pool| match &pool.picker {
            PoolPicker::Service(picker) => Some(picker),
            PoolPicker::InProcess(_) => None,
        });
        services
            .flat_map(|picker| picker.replicas.iter().map(|address| (*address, picker.namespace.clone())))
            .collect()
    }
}
