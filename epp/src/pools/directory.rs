//! Finds the pool that a gateway asks for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use forebay_resources::{InferencePool, ObjectKey, ObjectMap};

use super::PoolScope;
use crate::{Error, metrics::Metrics, schedule::Scheduler};

/// Maximum pools that an error names.
const MAX_NAMED: usize = 3;

/// What a gateway says of the pool that it asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// `namespace/name`, from Forebay's gateway.
    pub pool: Option<&'a str>,
    /// `:authority` of the stream.
    pub authority: Option<&'a str>,
    /// Port on which the connection was accepted.
    pub port: u16,
}

/// A pool that is served.
#[derive(Clone, Debug)]
pub struct ServedPool {
    /// Picks its endpoints.
    pub scheduler: Arc<Scheduler>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
}

/// The pools that are served at one time.
#[derive(Debug)]
pub struct Directory {
    scope: PoolScope,
    /// The resources are loaded.
    is_loaded: bool,
    pools: BTreeMap<ObjectKey, ServedPool>,
    /// Pools by the Service of their `endpointPickerRef`, with its port.
    services: HashMap<ObjectKey, Vec<(Option<u16>, ObjectKey)>>,
}

impl Directory {
    pub(super) fn new(
        scope: PoolScope,
        is_loaded: bool,
        pools: BTreeMap<ObjectKey, ServedPool>,
        objects: &ObjectMap<InferencePool>,
    ) -> Self {
        let mut services = HashMap::<ObjectKey, Vec<(Option<u16>, ObjectKey)>>::new();
        for key in pools.keys() {
            let Some(picker) = objects.get(key).and_then(|it| it.spec.endpoint_picker_ref.as_ref()) else {
                continue;
            };
            if picker.kind == "Service" {
                let port = picker.port.as_ref().map(|port| port.number.get());
                let service = ObjectKey::new(&key.namespace, &picker.name);
                services.entry(service).or_default().push((port, key.clone()));
            }
        }
        Self { scope, is_loaded, pools, services }
    }

    /// What is served.
    pub fn scope(&self) -> &PoolScope {
        &self.scope
    }

    /// Whether the resources are loaded, and the pool exists if there is only one.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// All pools.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &ServedPool)> {
        self.pools.iter()
    }

    /// The pool with this name.
    pub fn get(&self, pool: &ObjectKey) -> Option<&ServedPool> {
        self.pools.get(pool)
    }

    /// The pool that a gateway asks for: the one of the process; the one that Forebay's gateway names; the one whose
    /// `endpointPickerRef` names the Service in the authority. Pools that name the same Service are told apart by the port:
    /// the authority's, else the one of the connection.
    ///
    /// # Errors
    ///
    /// No pool has it, or more than one.
    pub fn find(&self, asked: &Asked<'_>) -> Result<&ServedPool, Error> {
        if let PoolScope::One(only) = &self.scope {
            return self.pools.get(only).ok_or_else(|| Error::NoPool(only.clone()));
        }
        if !self.is_loaded {
            return Err(Error::NotLoaded);
        }
        if let Some(name) = asked.pool {
            let key = name.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name));
            let pool = key.and_then(|key| self.pools.get(&key));
            return pool
                .ok_or_else(|| Error::PoolNotServed { pool: name.into(), scope: self.scope.to_string() });
        }
        self.find_by_service(asked)
    }

    fn find_by_service(&self, asked: &Asked<'_>) -> Result<&ServedPool, Error> {
        let authority = asked.authority.unwrap_or_default();
        let (host, port) = split_authority(authority);
        let unknown = || Error::UnknownService { authority: authority.into(), scope: self.scope.to_string() };
        let candidates =
            service(&host).and_then(|service| self.services.get(&service)).ok_or_else(unknown)?;
        let port = port.unwrap_or(asked.port);
        let chosen = match &candidates[..] {
            [(_, only)] => only,
            several => {
                let of_port: Vec<&ObjectKey> =
                    several.iter().filter(|(at, _)| *at == Some(port)).map(|(_, key)| key).collect();
                match of_port[..] {
                    [only] => only,
                    _ => return Err(ambiguous(authority, port, several.iter().map(|(_, key)| key))),
                }
            }
        };
        self.pools.get(chosen).ok_or_else(unknown)
    }
}

fn ambiguous<'a>(authority: &str, port: u16, pools: impl ExactSizeIterator<Item = &'a ObjectKey>) -> Error {
    let count = pools.len();
    let mut names: Vec<String> = pools.take(MAX_NAMED).map(ToString::to_string).collect();
    if count > MAX_NAMED {
        names.push(format!("{} more", count - MAX_NAMED));
    }
    Error::AmbiguousService { authority: authority.into(), port, pools: names.join(", ") }
}

/// Host in lower case without the final dot, and port.
fn split_authority(authority: &str) -> (String, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    };
    (host.trim_end_matches('.').to_ascii_lowercase(), port)
}

/// The Service of a name in the cluster's DNS: `NAME.NAMESPACE`, `NAME.NAMESPACE.svc`, `NAME.NAMESPACE.svc.DOMAIN`.
fn service(host: &str) -> Option<ObjectKey> {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next().is_none_or(|label| label == "svc");
    (is_service && !name.is_empty() && !namespace.is_empty()).then(|| ObjectKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_of_authorities() {
        let found = |authority: &str| {
            let (host, port) = split_authority(authority);
            (service(&host).map(|service| service.to_string()), port)
        };
        let epp = || Some("models/epp".to_owned());
        for (authority, expected) in [
            ("epp.models", (epp(), None)),
            ("epp.models:9002", (epp(), Some(9002))),
            ("EPP.Models.svc:9002", (epp(), Some(9002))),
            ("epp.models.svc.cluster.local.", (epp(), None)),
            ("epp.models.svc.example.org:80", (epp(), Some(80))),
            ("epp", (None, None)),
            ("", (None, None)),
            ("epp.models.pod", (None, None)),
            ("10.0.0.1:9002", (None, Some(9002))),
            ("[::1]:9002", (None, Some(9002))),
        ] {
            assert_eq!(found(authority), expected, "{authority}");
        }
    }
}
