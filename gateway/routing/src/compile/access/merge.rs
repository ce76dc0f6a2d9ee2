//! Merges the policies of one phase that attach to an object.

use std::cmp::Reverse;
use std::sync::Arc;

use forebay_resources::{AgentgatewayPolicy, ObjectKey};

use super::{PolicyAccess, fields, jwt};
use crate::compile::targets::Level;
use crate::table::Access;

/// A policy that attaches to an object.
#[derive(Clone, Copy, Debug)]
pub(in crate::compile) struct Attached<'a> {
    pub(in crate::compile) level: Level,
    pub(in crate::compile) key: &'a ObjectKey,
    pub(in crate::compile) policy: &'a AgentgatewayPolicy,
    pub(in crate::compile) access: &'a PolicyAccess,
}

/// A policy with a field that an older policy of the same level replaces.
#[derive(Clone, Copy, Debug)]
pub(in crate::compile) struct Replaced<'a> {
    /// Of `spec.traffic`.
    pub(in crate::compile) field: &'static str,
    pub(in crate::compile) policy: &'a ObjectKey,
    pub(in crate::compile) older: &'a ObjectKey,
}

impl Access {
    /// Each authentication and the rate limits of the most precise level, there of the oldest policy, and the authorization
    /// rules of all.
    pub(in crate::compile) fn merge<'a>(mut attached: Vec<Attached<'a>>) -> (Self, Vec<Replaced<'a>>) {
        attached.sort_by_key(|it| {
            let created = it.policy.metadata.creation_timestamp.clone();
            (Reverse(it.level), created.is_none(), created, it.key)
        });
        let mut replaced = Vec::new();
        let authentication =
            first(&attached, fields::AUTHENTICATION, |it| it.authentication.as_ref(), &mut replaced);
        let jwt = first(&attached, jwt::JWT, |it| it.jwt.as_ref(), &mut replaced);
        let limits = first(&attached, fields::RATE_LIMIT, |it| it.limits.as_ref(), &mut replaced);
        let rules = attached.iter().filter_map(|it| it.access.rule.clone()).collect();
        (Self { authentication, jwt, limits, rules }, replaced)
    }
}

/// The first value of a field. Policies of the same level that have one too are added to `replaced`.
fn first<'a, T: 'a>(
    attached: &[Attached<'a>],
    field: &'static str,
    value: impl Fn(&'a PolicyAccess) -> Option<&'a Arc<T>>,
    replaced: &mut Vec<Replaced<'a>>,
) -> Option<Arc<T>> {
    let mut having = attached.iter().filter_map(|it| Some((it, value(it.access)?)));
    let (first, found) = having.next()?;
    let same_level = having.take_while(|(it, _)| it.level == first.level);
    replaced.extend(same_level.map(|(it, _)| Replaced { field, policy: it.key, older: first.key }));
    Some(Arc::clone(found))
}
