//! Quotas and their targets. What an invalid quota targets is closed.

mod parse;
mod reach;

use std::sync::Arc;

use forebay_resources::{ObjectKey, PolicyTargetRef, Snapshot};

pub(super) use self::reach::{missing_targets, quota_facts};
use super::policies::{PolicyEffect, PolicyProblem};
use super::reference::Reference;
use super::targets::level_by_name;
use crate::names::{GATEWAY_GROUP, HTTP_ROUTE, POOL_GROUP, POOL_KIND};
use crate::table::{Quota, QuotaSet};

/// A quota with what it targets.
#[derive(Debug)]
struct Compiled<'a> {
    key: &'a ObjectKey,
    targets: Vec<PolicyTargetRef>,
    /// Or why it is invalid.
    quota: Result<Arc<Quota>, String>,
}

/// All quotas.
#[derive(Debug)]
pub(super) struct QuotaTargets<'a>(Vec<Compiled<'a>>);

/// The quotas of one target.
#[derive(Debug, Default)]
pub(super) struct TargetQuotas {
    /// A quota that is not enforced, as shown to clients.
    pub(super) closed_by: Option<Arc<str>>,
    pub(super) quotas: Option<Arc<QuotaSet>>,
    /// Each quota, with why it is not enforced.
    pub(super) reports: Vec<(ObjectKey, Option<PolicyProblem>)>,
}

impl<'a> QuotaTargets<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut index = 0;
        let compiled = snapshot.quotas.iter().map(|(key, object)| {
            let quota = parse::quota(key, index, &object.spec).map(Arc::new);
            index += usize::from(quota.is_ok());
            Compiled { key, targets: object.spec.targets(), quota }
        });
        Self(compiled.collect())
    }

    /// The valid quotas, by [`Quota::index`].
    pub(super) fn into_valid(self) -> Vec<Arc<Quota>> {
        self.0.into_iter().filter_map(|it| it.quota.ok()).collect()
    }

    /// Those that target the listener by its name or by its Gateway.
    pub(super) fn of_listener(&self, gateway: &ObjectKey, listener: &str) -> TargetQuotas {
        self.of(gateway, (GATEWAY_GROUP, "Gateway"), |section| section == listener)
    }

    pub(super) fn of_route(&self, route: &ObjectKey) -> TargetQuotas {
        // A section of a route is not supported, so it closes all of the route.
        self.of(route, (GATEWAY_GROUP, HTTP_ROUTE), |_| true)
    }

    /// Those that target a backend of a route. They are invalid.
    pub(super) fn of_backend(&self, route: &ObjectKey, reference: Reference<'_>) -> TargetQuotas {
        let kind = if reference.is_to_pool() { (POOL_GROUP, POOL_KIND) } else { ("", "Service") };
        self.of(&reference.key(&route.namespace), kind, |_| true)
    }

    /// `kind`: group and kind of the object.
    fn of(&self, object: &ObjectKey, kind: (&str, &str), is_section: impl Fn(&str) -> bool) -> TargetQuotas {
        let mut found = TargetQuotas::default();
        let mut valid = Vec::new();
        for Compiled { key, targets, quota } in &self.0 {
            let level = || level_by_name(targets, kind, &object.name, &is_section);
            if key.namespace != object.namespace || level().is_none() {
                continue;
            }
            let problem = match quota {
                Ok(quota) => {
                    valid.push(quota.clone());
                    None
                }
                Err(why) => {
                    found.closed_by.get_or_insert_with(|| format!("Quota {key}").into());
                    let message = format!("{why}; what the quota targets is closed: requests get status 403");
                    Some(PolicyProblem { effect: PolicyEffect::Closes, message })
                }
            };
            found.reports.push(((*key).clone(), problem));
        }
        found.quotas = QuotaSet::new(valid);
        found
    }
}
