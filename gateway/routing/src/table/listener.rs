//! Routes of listeners.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use forebay_openai::ModelName;
use http::request;

use super::access::{Access, Authentication, Checks, JwtAuthentication};
use super::backend::Pool;
use super::entry::{BeforeBody, Entry, Matched};
use super::hostname::Hostname;
use super::index::Index;
use super::models::ModelMap;
use super::port_tls::PortTls;
use super::quota::{Quota, QuotaSet, Quotas};
use super::rewrites::{Rewrites, Targets};
use super::rule::Rule;

/// The listeners that share a port.
#[derive(Debug, Default)]
pub struct PortRoutes {
    /// The more specific hostname first.
    pub(crate) listeners: Vec<ListenerRoutes>,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<Arc<PortTls>>,
}

impl PortRoutes {
    /// TLS settings; `None` for plain HTTP.
    pub fn tls(&self) -> Option<&Arc<PortTls>> {
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

/// What policies and quotas require of all requests to a listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerAccess {
    /// A policy or a quota that restricts the listener and is not enforced.
    pub(crate) closed_by: Option<Arc<str>>,
    pub(crate) quotas: Option<Arc<QuotaSet>>,
    /// Policies with phase `PreRouting`.
    pub(crate) before: Access,
    /// The other ones.
    pub(crate) after: Access,
}

/// The routes of one listener.
#[derive(Debug)]
pub struct ListenerRoutes {
    hostname: Hostname,
    is_trusted: bool,
    access: ListenerAccess,
    has_restricted_rule: bool,
    /// Rules with an authentication of their own, one of each kind.
    authenticating_rules: Vec<Arc<Rule>>,
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
        access: ListenerAccess,
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
        let has_restricted_rule = entries.iter().any(|entry| !entry.rule.access.is_open());
        let authenticating_rules = authenticating_rules(&entries);
        let index = Index::new(&entries);
        Self {
            hostname,
            is_trusted,
            access,
            has_restricted_rule,
            authenticating_rules,
            models,
            aliases,
            entries,
            index,
            known_models,
        }
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

    /// A policy or a quota that restricts the listener and that the gateway does not enforce. Such a listener answers no request.
    pub fn closed_by(&self) -> Option<&Arc<str>> {
        self.access.closed_by.as_ref()
    }

    /// What policies require of a request that the rule answers. Without a rule: of requests that no rule matches.
    pub fn checks<'a>(&'a self, rule: Option<&'a Rule>) -> Checks<'a> {
        Checks::new(&self.access.before, &self.access.after, rule.map(|rule| &rule.access))
    }

    /// What is known of the checks before the model is known: those of the listener, unless its rules have their own
    /// authentication. `rule`: the rule, if it is the same for every model.
    pub fn early_checks<'a>(&'a self, rule: Option<&'a Rule>) -> Checks<'a> {
        if rule.is_some() || self.authenticating_rules.is_empty() {
            return self.checks(rule);
        }
        Checks::new(&self.access.before, Access::NONE, None)
    }

    /// Whether a policy restricts any request.
    pub fn is_restricted(&self) -> bool {
        !self.access.before.is_open() || !self.access.after.is_open() || self.has_restricted_rule()
    }

    /// Whether a policy restricts single rules: then it depends on the model what a caller may do.
    pub fn has_restricted_rule(&self) -> bool {
        self.has_restricted_rule
    }

    /// What policies require of requests that rules with an authentication of their own answer.
    pub fn authenticating_rules(&self) -> impl Iterator<Item = Checks<'_>> {
        self.authenticating_rules.iter().map(|rule| self.checks(Some(rule)))
    }

    /// The quotas of the listener, and of the rule that answers a request.
    pub fn quotas<'a>(&'a self, rule: Option<&'a Rule>) -> Quotas<'a> {
        Quotas::new(self.access.quotas.as_ref(), rule.and_then(|rule| rule.quotas.as_ref()))
    }

    /// The quotas of the listener and of its rules, each with policies that may authenticate requests which it counts.
    pub(crate) fn quota_keys(&self) -> impl Iterator<Item = (&Arc<Quota>, &Arc<Authentication>)> {
        let listener = self.access.quotas.as_ref();
        let rules = std::iter::once(None).chain(self.authenticating_rules.iter().map(|rule| Some(&**rule)));
        let of_listener = rules.map(move |rule| (rule, listener));
        let of_rules = self.entries.iter().map(|entry| (Some(&*entry.rule), entry.rule.quotas.as_ref()));
        of_listener.chain(of_rules).filter_map(|(rule, set)| Some((rule, set?))).flat_map(|(rule, set)| {
            let known = self.checks(rule).phases.into_iter().filter_map(|phase| phase.authentication);
            set.all().iter().flat_map(move |quota| known.clone().map(move |keys| (quota, keys)))
        })
    }

    /// What policies require of requests for `host`, and their quotas: without a rule, and of those that rules with limits or
    /// quotas of their own answer.
    pub fn limited(&self, host: &str) -> impl Iterator<Item = (Checks<'_>, Quotas<'_>)> {
        let mut seen = HashSet::new();
        let is_new = move |rule: &&Arc<Rule>| {
            let limits =
                (rule.access.limits.as_ref().map(Arc::as_ptr), rule.quotas.as_ref().map(Arc::as_ptr));
            rule.closed_by.is_none() && limits != (None, None) && seen.insert(limits)
        };
        let rules = self.index.of_host(&self.entries, host).map(|entry| &entry.rule).filter(is_new);
        let rules = std::iter::once(None).chain(rules.map(|rule| Some(&**rule)));
        rules.map(|rule| (self.checks(rule), self.quotas(rule)))
    }

    /// The authentications by tokens, of the listener and its rules.
    pub(crate) fn token_authentications(&self) -> impl Iterator<Item = &Arc<JwtAuthentication>> {
        let of_rules = self.authenticating_rules.iter().map(|rule| &rule.access);
        [&self.access.before, &self.access.after].into_iter().chain(of_rules).filter_map(|it| it.jwt.as_ref())
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

/// One rule for each combination of authentications.
fn authenticating_rules(entries: &[Entry]) -> Vec<Arc<Rule>> {
    let mut seen = HashSet::new();
    let all = entries.iter().map(|entry| &entry.rule).filter(|rule| rule.access.authenticates());
    let is_new = |rule: &&Arc<Rule>| {
        let Access { authentication, jwt, .. } = &rule.access;
        seen.insert((authentication.as_ref().map(Arc::as_ptr), jwt.as_ref().map(Arc::as_ptr)))
    };
    all.filter(is_new).cloned().collect()
}
