//! Routes of listeners.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use forebay_openai::ModelName;
use http::request;
use rustls::ServerConfig;

use super::backend::Pool;
use super::entry::{BeforeBody, Entry, Matched};
use super::hostname::Hostname;
use super::index::Index;
use super::models::ModelMap;
use super::rewrites::{Rewrites, Targets};

/// The listeners that share a port.
#[derive(Debug, Default)]
pub struct PortRoutes {
    /// The more specific hostname first.
    pub(crate) listeners: Vec<ListenerRoutes>,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl PortRoutes {
    /// TLS settings; `None` for plain HTTP.
    pub fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.tls.as_ref()
    }

    /// Whether the clients of this port are trusted. A trusted listener has its own port.
    pub fn is_trusted(&self) -> bool {
        self.listeners.iter().any(ListenerRoutes::is_trusted)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The listener for `host` (without a port): the most specific hostname that matches.
    pub fn listener(&self, host: &str) -> Option<&ListenerRoutes> {
        self.listeners.iter().find(|listener| listener.hostname().matches(host))
    }
}

/// The routes of one listener.
#[derive(Debug)]
pub struct ListenerRoutes {
    hostname: Hostname,
    is_trusted: bool,
    closed_by: Option<Arc<str>>,
    models: ModelMap,
    /// Models with an exact rewrite in one of the pools.
    aliases: HashMap<String, Targets>,
    /// By precedence: the first that matches applies.
    entries: Vec<Entry>,
    index: Index,
    /// Model names that resources mention, as metric labels.
    known_models: foldhash::HashSet<Arc<str>>,
}

impl ListenerRoutes {
    /// `entries` sorted by precedence.
    pub(crate) fn new(
        hostname: Hostname,
        is_trusted: bool,
        closed_by: Option<Arc<str>>,
        models: ModelMap,
        entries: Vec<Entry>,
    ) -> Self {
        let mut aliases: HashMap<String, Targets> = HashMap::new();
        let pools = entries.iter().flat_map(|entry| entry.rule.backends.pools());
        for (alias, targets) in pools.filter_map(|pool| pool.rewrites.as_ref()).flat_map(Rewrites::exact) {
            // The rule with precedence wins.
            aliases.entry(alias.to_owned()).or_insert_with(|| targets.clone());
        }
        let matched = entries.iter().flat_map(|entry| entry.matching.models());
        let named = models.all().chain(matched).chain(aliases.keys().map(String::as_str));
        let known_models = named.map(Arc::from).collect();
        let index = Index::new(&entries);
        Self { hostname, is_trusted, closed_by, models, aliases, entries, index, known_models }
    }

    pub(crate) fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The hostname for logs and explanations: `*` for any.
    pub fn name(&self) -> impl fmt::Display {
        &self.hostname
    }

    /// Whether clients may set internal headers (model rewrite, endpoint subset, explain).
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// A policy that restricts the listener and that the gateway does not enforce. Such a listener answers no request.
    pub fn closed_by(&self) -> Option<&Arc<str>> {
        self.closed_by.as_ref()
    }

    /// Base models of model names.
    pub fn models(&self) -> &ModelMap {
        &self.models
    }

    /// A target of the alias `name`, if a pool's rewrite matches it exactly.
    pub fn alias(&self, name: &ModelName) -> Option<&ModelName> {
        self.aliases.get(name.as_str())?.choose()
    }

    /// The route as far as it is known before the body is read. Call it before the model's headers are set.
    pub fn before_body(&self, host: &str, head: &request::Parts) -> BeforeBody<'_> {
        match self.index.before_body(&self.entries, host, head) {
            (decided, true) => BeforeBody::DependsOnModel { without: decided.is_some() },
            (Some(decided), false) => BeforeBody::Decided(decided.matched()),
            (None, false) => BeforeBody::NoRoute,
        }
    }

    /// The rule for a request whose `head` has the model's headers.
    pub fn route(&self, host: &str, head: &request::Parts) -> Option<Matched<'_>> {
        self.index.first(&self.entries, host, head).map(Entry::matched)
    }

    /// The first rule that could apply to a CORS preflight, which names no model.
    pub fn route_preflight(&self, host: &str, head: &request::Parts) -> Option<Matched<'_>> {
        self.index.first_of_models(&self.entries, host, head).map(Entry::matched)
    }

    /// The pools that requests to `host` can reach, without duplicates and without those of closed rules.
    pub fn pools(&self, host: &str) -> Vec<Arc<Pool>> {
        let mut seen = HashSet::new();
        self.index
            .of_host(&self.entries, host)
            .filter(|entry| entry.rule.closed_by.is_none())
            .flat_map(|entry| entry.rule.backends.pools())
            .filter(|pool| seen.insert(pool.label.clone()))
            .cloned()
            .collect()
    }

    /// The model as a metric label; `None` if no resource mentions it.
    pub fn label(&self, model: &str) -> Option<&Arc<str>> {
        self.known_models.get(model)
    }
}
