//! `traffic.apiKeyAuthentication`, `traffic.jwtAuthentication`, `traffic.authorization` and `traffic.rateLimit` of
//! AgentgatewayPolicies.
//!
//! A policy with a value that is not understood is not enforced in part: what it targets is closed.

mod fields;
mod global_limit;
mod jwt;
mod keys;
mod location;
mod merge;
mod rate_limit;
mod service;
mod service_ref;
mod source;
mod tls;

pub use self::fields::key_source;
pub(super) use self::fields::{FIELDS, Parsed, parse};
pub(super) use self::merge::{Attached, Replaced};
pub use self::source::{KeySource, label_selector};
pub use self::tls::server_authorities;

use std::sync::Arc;

use forebay_resources::{ObjectKey, Snapshot};

use self::rate_limit::LimitSetSpec;
use super::policies::PolicyProblem;
use crate::table::{AccessRule, Authentication, JwtAuthentication, PolicyLimits};

/// `maxLength` of expressions in the type's schema.
const MAX_EXPRESSION_BYTES: usize = 16_384;

/// What a policy requires of requests.
#[derive(Debug, Default)]
pub(super) struct PolicyAccess {
    pub(super) authentication: Option<Arc<Authentication>>,
    pub(super) jwt: Option<Arc<JwtAuthentication>>,
    pub(super) rule: Option<Arc<AccessRule>>,
    pub(super) limits: Option<Arc<PolicyLimits>>,
    /// Keys that are not accepted.
    pub(super) problems: Vec<PolicyProblem>,
}

impl PolicyAccess {
    /// `limits`: of the policies before.
    pub(super) fn new(
        snapshot: &Snapshot,
        policy: &ObjectKey,
        parsed: Parsed,
        limits: &mut Vec<Arc<PolicyLimits>>,
    ) -> Self {
        let mut problems = Vec::new();
        let authentication = parsed.authentication.map(|spec| {
            let keys = keys::read(snapshot, &spec.source(&policy.namespace), &mut problems);
            Arc::new(Authentication { mode: spec.mode, location: spec.location, keys })
        });
        let jwt = parsed.jwt.map(|spec| Arc::new(spec.resolve(snapshot, &policy.namespace, &mut problems)));
        let limits = parsed.limits.map(|of_policy| {
            let set = |set: LimitSetSpec| set.resolve(snapshot, &policy.namespace, &mut problems);
            let sets = of_policy.into_iter().map(set).collect();
            let of_policy = Arc::new(PolicyLimits { policy: policy.clone(), sets, index: limits.len() });
            limits.push(of_policy.clone());
            of_policy
        });
        Self { authentication, jwt, rule: parsed.rule.map(Arc::new), limits, problems }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields().next().is_none()
    }

    /// The fields of `spec.traffic` that are set.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        let authentication = self.authentication.is_some().then_some(fields::AUTHENTICATION);
        let jwt = self.jwt.is_some().then_some(jwt::JWT);
        let rule = self.rule.is_some().then_some(fields::AUTHORIZATION);
        let limits = self.limits.is_some().then_some(fields::RATE_LIMIT);
        authentication.into_iter().chain(jwt).chain(rule).chain(limits)
    }
}
