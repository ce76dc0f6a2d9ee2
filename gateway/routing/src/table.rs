use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_resources::ObjectKey;
use http::request;
use rustls::ServerConfig;

use super::backend::{Pool, PoolPicker};
use super::hostname::Hostname;
use super::index::Index;
use super::matching::Match;
use super::models::ModelMap;
use super::rewrites::{Rewrites, Targets};
use super::rule::Rule;
use forebay_openai::ModelName;

/// Whether Gateways that name the same port share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSharing {
    /// All Gateways have this machine's addresses: a port is opened once for all of them.
    Shared,
    /// Each Gateway has an address of its own.
    #[allow(dead_code, reason = "chosen together with the provider of the resources")]
    PerGateway,
}

/// A port as Gateways name it; what is opened for it may have another number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerPort {
    pub port: u16,
    /// Nothing where Gateways share their ports.
    pub gateway: Option<Arc<ObjectKey>>,
}

impl ListenerPort {
    pub fn new(gateway: &ObjectKey, port: u16, sharing: PortSharing) -> Self {
        let gateway = match sharing {
            PortSharing::Shared => None,
            PortSharing::PerGateway => Some(Arc::new(gateway.clone())),
        };
        Self { port, gateway }
    }
}

impl fmt::Display for ListenerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gateway {
            None => write!(f, "port {}", self.port),
            Some(gateway) => write!(f, "port {} of Gateway {gateway}", self.port),
        }
    }
}

/// Everything that is known about where requests go, at one moment.
#[derive(Debug, Default)]
pub struct RouteTable {
    pub ports: BTreeMap<ListenerPort, Arc<PortRoutes>>,
    pub pools: Vec<Arc<Pool>>,
    /// What could not be taken from the resources, one line each.
    pub problems: BTreeSet<String>,
}

impl RouteTable {
    pub fn picker_addresses(&self) -> HashSet<SocketAddr> {
        let services = self.pools.iter().filter_map(|pool| match &pool.picker {
            PoolPicker::Service(picker) => Some(picker),
            PoolPicker::InProcess(_) => None,
        });
        services.flat_map(|picker| &picker.replicas).copied().collect()
    }
}

/// The listeners that share a port.
#[derive(Debug, Default)]
pub struct PortRoutes {
    /// The more specific hostname first.
    pub(super) listeners: Vec<ListenerRoutes>,
    /// Where the listeners speak TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl PortRoutes {
    pub fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.tls.as_ref()
    }

    /// Of the URLs that lead here.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// `host` without a port.
    pub fn listener(&self, host: &str) -> Option<&ListenerRoutes> {
        self.listeners.iter().find(|listener| listener.hostname.matches(host))
    }
}

/// The routes of one listener.
#[derive(Debug)]
pub struct ListenerRoutes {
    hostname: Hostname,
    is_trusted: bool,
    models: ModelMap,
    /// Models that a rewrite of one of the pools matches exactly.
    aliases: HashMap<String, Targets>,
    /// By precedence: the first that matches is the one.
    pub(super) entries: Vec<Entry>,
    index: Index,
    /// Names that the resources use, as labels.
    known_models: foldhash::HashSet<Arc<str>>,
}

/// One match of one rule, for one hostname.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) hostname: Hostname,
    pub(super) matching: Match,
    pub(super) rule: Arc<Rule>,
}

impl Entry {
    fn matched(&self) -> Matched<'_> {
        Matched {
            rule: &self.rule,
            prefix_bytes: self.matching.prefix_bytes(),
            is_by_model: self.matching.depends_on_model(),
        }
    }
}

/// The rule for a request.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    pub rule: &'a Rule,
    /// Of the path prefix that matched, without a slash at its end.
    pub prefix_bytes: usize,
    /// It was the model that led here.
    pub is_by_model: bool,
}

/// What is known of a request's way before its body has been looked at.
#[derive(Clone, Copy, Debug)]
pub enum BeforeBody<'a> {
    /// Which rule it is depends on the model.
    DependsOnModel {
        /// Whether there is a rule for requests that name no model.
        without: bool,
    },
    Decided(Matched<'a>),
    NoRoute,
}

impl ListenerRoutes {
    /// `entries` by precedence.
    pub(super) fn new(hostname: Hostname, is_trusted: bool, models: ModelMap, entries: Vec<Entry>) -> Self {
        let mut aliases: HashMap<String, Targets> = HashMap::new();
        let pools = entries.iter().flat_map(|entry| entry.rule.backends.pools());
        for (alias, targets) in pools.filter_map(|pool| pool.rewrites.as_ref()).flat_map(Rewrites::exact) {
            // The rule that comes first has the first word.
            aliases.entry(alias.to_owned()).or_insert_with(|| targets.clone());
        }
        let matched = entries.iter().flat_map(|entry| entry.matching.models());
        let named = models.all().chain(matched).chain(aliases.keys().map(String::as_str));
        let known_models = named.map(Arc::from).collect();
        let index = Index::new(&entries);
        Self { hostname, is_trusted, models, aliases, entries, index, known_models }
    }

    pub(super) fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    /// For people: `*` for any.
    pub fn name(&self) -> impl fmt::Display {
        &self.hostname
    }

    /// Whether clients may say which model and which endpoints are taken.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    pub fn models(&self) -> &ModelMap {
        &self.models
    }

    /// A model that stands behind `name`, if that is an alias.
    pub fn alias(&self, name: &ModelName) -> Option<&ModelName> {
        self.aliases.get(name.as_str())?.choose()
    }

    /// Must be asked before the model's headers are set.
    pub fn before_body(&self, host: &str, head: &request::Parts) -> BeforeBody<'_> {
        match self.index.before_body(&self.entries, host, head) {
            (decided, true) => BeforeBody::DependsOnModel { without: decided.is_some() },
            (Some(decided), false) => BeforeBody::Decided(decided.matched()),
            (None, false) => BeforeBody::NoRoute,
        }
    }

    /// The rule for the request; `head` has the model's headers set.
    pub fn route(&self, host: &str, head: &request::Parts) -> Option<Matched<'_>> {
        self.index.first(&self.entries, host, head).map(Entry::matched)
    }

    /// The first rule that would answer a browser's preflight, which names no model.
    pub fn route_preflight(&self, host: &str, head: &request::Parts) -> Option<Matched<'_>> {
        self.index.first_of_models(&self.entries, host, head).map(Entry::matched)
    }

    /// The pools that requests to `host` can reach.
    pub fn pools(&self, host: &str) -> Vec<Arc<Pool>> {
        let mut seen = HashSet::new();
        self.index
            .of_host(&self.entries, host)
            .flat_map(|entry| entry.rule.backends.pools())
            .filter(|pool| seen.insert(pool.label.clone()))
            .cloned()
            .collect()
    }

    /// The name as a label, if the resources name it.
    pub fn label(&self, model: &str) -> Option<&Arc<str>> {
        self.known_models.get(model)
    }
}
