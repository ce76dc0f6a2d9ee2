use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use http::request;

use super::backend::{Backend, Backends, Pool, PoolPicker};
use super::hostname::Hostname;
use super::matching::Match;
use super::models::ModelMap;
use super::timeouts::Timeouts;

/// Everything that is known about where requests go, at one moment.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    /// By the port a Gateway's listener names.
    pub(crate) ports: BTreeMap<u16, Arc<PortRoutes>>,
    pub(crate) pools: Vec<Arc<Pool>>,
    /// What could not be taken from the resources, one line each.
    pub(crate) problems: BTreeSet<String>,
}

impl RouteTable {
    pub(crate) fn picker_addresses(&self) -> HashSet<SocketAddr> {
        let services = self.pools.iter().filter_map(|pool| match &pool.picker {
            PoolPicker::Service(picker) => Some(picker),
            PoolPicker::InProcess(_) => None,
        });
        services.flat_map(|picker| &picker.replicas).copied().collect()
    }
}

/// The listeners that share a port.
#[derive(Debug, Default)]
pub(crate) struct PortRoutes {
    /// The more specific hostname first.
    pub(super) listeners: Vec<ListenerRoutes>,
}

impl PortRoutes {
    /// `host` without a port.
    pub(crate) fn listener(&self, host: &str) -> Option<&ListenerRoutes> {
        self.listeners.iter().find(|listener| listener.hostname.matches(host))
    }
}

/// The routes of one listener.
#[derive(Debug)]
pub(crate) struct ListenerRoutes {
    pub(super) hostname: Hostname,
    pub(super) models: ModelMap,
    /// By precedence: the first that matches is the one.
    pub(super) entries: Vec<Entry>,
    /// Names that the resources use, as labels.
    pub(super) known_models: HashSet<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) hostname: Hostname,
    pub(super) matching: Match,
    pub(super) backends: Arc<Backends>,
    pub(super) timeouts: Timeouts,
}

impl ListenerRoutes {
    pub(crate) fn models(&self) -> &ModelMap {
        &self.models
    }

    /// Where the request goes, and how long it may take; `head` has the model's headers set.
    pub(crate) fn route(&self, host: &str, head: &request::Parts) -> Option<(Backend, Timeouts)> {
        let entry =
            self.entries.iter().find(|entry| entry.hostname.matches(host) && entry.matching.matches(head))?;
        Some((entry.backends.choose(), entry.timeouts))
    }

    /// The pools that requests to `host` can reach.
    pub(crate) fn pools(&self, host: &str) -> Vec<Arc<Pool>> {
        let mut seen = HashSet::new();
        self.entries
            .iter()
            .filter(|entry| entry.hostname.matches(host))
            .flat_map(|entry| entry.backends.pools())
            .filter(|pool| seen.insert(pool.label.clone()))
            .cloned()
            .collect()
    }

    /// The name as a label, if the resources name it.
    pub(crate) fn label(&self, model: &str) -> Option<&Arc<str>> {
        self.known_models.get(model)
    }
}
