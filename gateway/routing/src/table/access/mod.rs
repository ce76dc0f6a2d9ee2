//! Who may send a request, and how many: API keys, tokens, authorization rules and rate limits, as policies attach them.
//!
//! A request has to pass two phases: the policies of the listener with phase `PreRouting`, and then the other policies of
//! the listener together with those of the route. Within a phase, each method of authentication and the rate limits of
//! the more precise target apply, and all authorization rules are merged.

mod authentication;
mod authorization;
mod certificate;
mod expression;
mod global_limit;
mod identity;
mod jwt;
mod keys;
mod limits;
mod location;
mod rate_limit;
mod values;
mod variables;

use std::sync::Arc;

pub use self::authentication::{Authentication, AuthenticationMode};
pub use self::authorization::AccessRule;
pub(crate) use self::authorization::Action;
pub use self::certificate::ClientCertificate;
pub(crate) use self::expression::Expression;
pub(crate) use self::global_limit::Descriptor;
pub use self::global_limit::{DescriptorValues, GlobalLimit, RateLimitServer};
pub use self::identity::Identity;
pub use self::jwt::{JwksId, Jwt, JwtAuthentication, JwtKeys, RemoteJwks, RemoteKeys, TokenError};
pub(crate) use self::jwt::{JwksSource, JwtProvider};
pub(crate) use self::keys::KeyHash;
pub use self::keys::{ApiKey, ApiKeys};
pub use self::limits::{LimitSet, PolicyLimits};
pub use self::location::{Credential, CredentialLocation};
pub use self::rate_limit::{LimitUnit, Measure, RateLimit};
pub(crate) use self::values::Document;
pub use self::variables::{ModelNames, RequestAttributes, Variables};

/// What policies of one phase require at a listener or a rule.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub(crate) authentication: Option<Arc<Authentication>>,
    pub(crate) jwt: Option<Arc<JwtAuthentication>>,
    pub(crate) limits: Option<Arc<PolicyLimits>>,
    pub(crate) rules: Vec<Arc<AccessRule>>,
}

impl Access {
    /// Requires nothing.
    pub(crate) const NONE: &'static Self =
        &Self { authentication: None, jwt: None, limits: None, rules: Vec::new() };

    /// Whether all callers may send requests.
    pub(crate) fn is_open(&self) -> bool {
        !self.authenticates() && self.rules.is_empty()
    }

    pub(crate) fn authenticates(&self) -> bool {
        self.authentication.is_some() || self.jwt.is_some()
    }
}

/// What policies of one phase require of a request.
#[derive(Clone, Copy, Debug)]
pub struct Phase<'a> {
    /// The caller has to be authenticated by its key.
    pub authentication: Option<&'a Arc<Authentication>>,
    /// The caller has to be authenticated by its token.
    pub jwt: Option<&'a Arc<JwtAuthentication>>,
    /// Requests are counted by it.
    pub limits: Option<&'a Arc<PolicyLimits>>,
    rules: [&'a [Arc<AccessRule>]; 2],
}

impl<'a> Phase<'a> {
    /// Merges what a listener and one of its rules require.
    fn merged(listener: &'a Access, rule: Option<&'a Access>) -> Self {
        let keys_of_rule = rule.and_then(|rule| rule.authentication.as_ref());
        Self {
            authentication: keys_of_rule.or(listener.authentication.as_ref()),
            jwt: rule.and_then(|rule| rule.jwt.as_ref()).or(listener.jwt.as_ref()),
            limits: rule.and_then(|rule| rule.limits.as_ref()).or(listener.limits.as_ref()),
            rules: [&listener.rules, rule.map_or(&[][..], |rule| &rule.rules)],
        }
    }

    fn rules(&self) -> impl Iterator<Item = &'a AccessRule> + use<'a> {
        self.rules.into_iter().flatten().map(|rule| &**rule)
    }
}

/// What policies require of a request.
#[derive(Clone, Copy, Debug)]
pub struct Checks<'a> {
    /// All of them have to be passed.
    pub phases: [Phase<'a>; 2],
}

impl<'a> Checks<'a> {
    /// `rule` is `None` for requests that no rule matches.
    pub(crate) fn new(before: &'a Access, after: &'a Access, rule: Option<&'a Access>) -> Self {
        Self { phases: [Phase::merged(before, None), Phase::merged(after, rule)] }
    }

    /// The rate limits that count the request.
    pub fn limits(&self) -> impl Iterator<Item = &'a Arc<PolicyLimits>> + use<'a> {
        self.phases.into_iter().filter_map(|phase| phase.limits)
    }

    /// Whether callers are authenticated.
    pub fn authenticates(&self) -> bool {
        self.phases.iter().any(|phase| phase.authentication.is_some() || phase.jwt.is_some())
    }

    /// Whether any authorization rule applies.
    pub fn has_rules(&self) -> bool {
        self.phases.iter().any(|phase| phase.rules().next().is_some())
    }

    /// Whether any rule or rate limit depends on the model.
    pub fn reads_model(&self) -> bool {
        self.phases.iter().flat_map(Phase::rules).any(AccessRule::reads_model)
            || self.limits().any(|limits| limits.reads_model())
    }

    /// Whether any rule reads the variable `request`.
    pub fn reads_request(&self) -> bool {
        self.phases.iter().flat_map(Phase::rules).any(AccessRule::reads_request)
    }

    /// Whether the authorization rules of all phases allow the request.
    pub fn allow(&self, variables: &Variables<'_>) -> bool {
        self.phases.iter().all(|phase| authorization::allow(phase.rules(), variables))
    }
}
