//! The table as JSON for the admin page `/config`. Contains nothing from Secrets.

use serde_json::{Value, json};

use super::RouteTable;
use super::backend::{Backend, PoolPicker};
use super::entry::Entry;
use super::listener::ListenerRoutes;
use super::matching::{Match, Path, Pattern};
use super::rewrites::{Rewrites, Targets};

impl RouteTable {
    /// Ports, their listeners, and routes in order of precedence.
    pub fn describe(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, routes)| {
                json!({
                    "port": port.port,
                    "gateway": port.gateway.as_ref().map(|gateway| gateway.to_string()),
                    "tls": routes.tls().is_some(),
                    "listeners": routes.listeners.iter().map(ListenerRoutes::describe).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({ "ports": ports, "problems": self.problems })
    }
}

impl ListenerRoutes {
    fn describe(&self) -> Value {
        json!({
            "hostname": self.hostname().to_string(),
            "trusted": self.is_trusted(),
            "routes": self.entries().iter().map(Entry::describe).collect::<Vec<_>>(),
        })
    }
}

impl Entry {
    fn describe(&self) -> Value {
        let backends: Vec<Value> = self
            .rule
            .backends
            .all()
            .map(|(weight, backend)| json!({ "weight": weight, "backend": backend.describe() }))
            .collect();
        json!({
            "hostname": self.hostname.to_string(),
            "match": self.matching.describe(),
            "rule": self.rule.origin,
            "backends": backends,
        })
    }
}

impl Match {
    fn describe(&self) -> String {
        let path = match &self.path {
            Path::Exact(path) => format!("path = {path}"),
            Path::Regex(regex) => format!("path ~ {}", regex.as_str()),
            Path::Prefix(prefix) => format!("path {prefix}/*"),
        };
        let headers = self.headers.iter().map(|(name, pattern)| match pattern {
            Pattern::Exact(value) => format!("{name} = {}", String::from_utf8_lossy(value.as_bytes())),
            Pattern::Regex(regex) => format!("{name} ~ {}", regex.as_str()),
        });
        let query = self.query.iter().map(|(name, pattern)| match pattern {
            Pattern::Exact(value) => format!("?{name} = {value}"),
            Pattern::Regex(regex) => format!("?{name} ~ {}", regex.as_str()),
        });
        let method = self.method.iter().map(|method| format!("method = {method}"));
        [path].into_iter().chain(method).chain(headers).chain(query).collect::<Vec<_>>().join(", ")
    }
}

impl Backend {
    fn describe(&self) -> Value {
        match self {
            Self::Invalid(why) => json!({ "error": why }),
            Self::Service(service) => json!({ "service": &*service.label, "endpoints": service.endpoints }),
            Self::Pool(pool) => {
                let picker = match &pool.picker {
                    PoolPicker::InProcess(_) => json!("in process"),
                    PoolPicker::Service(picker) => json!({
                        "replicas": picker.replicas,
                        "failureMode": picker.failure_mode,
                    }),
                };
                let rewrites = pool.rewrites.as_ref().map(Rewrites::describe);
                json!({
                    "pool": &*pool.label,
                    "endpoints": pool.endpoints(),
                    "picker": picker,
                    "rewrites": rewrites,
                })
            }
        }
    }
}

impl Rewrites {
    /// Targets by model; `*` is the rule without matches.
    fn describe(&self) -> Value {
        let targets = |targets: &Targets| json!(targets.names().map(ToString::to_string).collect::<Vec<_>>());
        let exact = self.exact().map(|(model, it)| (model.to_owned(), targets(it)));
        exact.chain(self.generic().map(|it| ("*".to_owned(), targets(it)))).collect()
    }
}
