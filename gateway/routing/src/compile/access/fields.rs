//! Parses the fields. They are kept as JSON in the type of the resource: a value that a later version of the API allows
//! must not make the whole policy invalid, which would open what it protects.

use std::collections::BTreeMap;

use forebay_resources::{AgentgatewayPolicy, ObjectKey};
use serde::Deserialize;
use serde_json::Value;

use super::MAX_EXPRESSION_BYTES;
use super::jwt::{self, JWT, JwtSpec};
use super::location::Location;
use super::rate_limit::{LimitSetSpec, rate_limits};
use super::source::KeySource;
use crate::table::{AccessRule, Action, AuthenticationMode, CredentialLocation, Expression};

pub(super) const AUTHENTICATION: &str = "apiKeyAuthentication";
pub(super) const AUTHORIZATION: &str = "authorization";
pub(super) const RATE_LIMIT: &str = "rateLimit";
/// Fields of `spec.traffic` that are enforced.
pub(in crate::compile) const FIELDS: [&str; 4] = [AUTHENTICATION, JWT, AUTHORIZATION, RATE_LIMIT];
const MAX_EXPRESSIONS: usize = 256;

/// The fields of one policy.
#[derive(Debug, Default)]
pub(in crate::compile) struct Parsed {
    pub(super) authentication: Option<AuthenticationSpec>,
    pub(super) jwt: Option<JwtSpec>,
    pub(super) rule: Option<AccessRule>,
    pub(super) limits: Option<Vec<LimitSetSpec>>,
}

impl Parsed {
    /// Why no request can pass both authentications.
    fn contradiction(&self) -> Option<String> {
        let (key, jwt) = (self.authentication.as_ref()?, self.jwt.as_ref()?);
        let header = jwt.strict_header()?;
        (key.mode == AuthenticationMode::Strict && key.location.header == *header).then(|| {
            format!(
                "{AUTHENTICATION} reads the header {header}, too, and both are Strict: no request can have a key and a token \
                 there; make one of them Optional, or let it read another header"
            )
        })
    }
}

/// Fails with the fields that cannot be enforced, each with the reason.
pub(in crate::compile) fn parse(policy: &AgentgatewayPolicy) -> Result<Parsed, Vec<(String, String)>> {
    let Some(traffic) = &policy.spec.traffic else { return Ok(Parsed::default()) };
    let field = |name| traffic.other.get(name).filter(|value| !value.is_null());
    let mut failed = Vec::new();
    let mut fail = |name: &str, why: String| {
        failed.push((format!("traffic.{name}"), format!("traffic.{name}: {why}")));
    };
    let mut parsed = Parsed::default();
    match field(AUTHENTICATION).map(authentication).transpose() {
        Ok(authentication) => parsed.authentication = authentication,
        Err(why) => fail(AUTHENTICATION, why),
    }
    match field(JWT).map(jwt::parse).transpose() {
        Ok(jwt) => parsed.jwt = jwt,
        Err(why) => fail(JWT, why),
    }
    match field(AUTHORIZATION).map(authorization).transpose() {
        Ok(rule) => parsed.rule = rule,
        Err(why) => fail(AUTHORIZATION, why),
    }
    match field(RATE_LIMIT).map(rate_limits).transpose() {
        Ok(limits) => parsed.limits = limits,
        Err(why) => fail(RATE_LIMIT, why),
    }
    if let Some(why) = parsed.contradiction() {
        fail(JWT, why);
    }
    let authenticates = parsed.authentication.is_some() || parsed.jwt.is_some();
    let is_used = authenticates || parsed.rule.is_some() || parsed.limits.is_some();
    if is_used && !has_default_strategy(policy) {
        failed.push(("strategy".into(), "strategy other than inheritance Default is not supported".into()));
    }
    if failed.is_empty() { Ok(parsed) } else { Err(failed) }
}

fn has_default_strategy(policy: &AgentgatewayPolicy) -> bool {
    match policy.spec.other.get("strategy") {
        None | Some(Value::Null) => true,
        Some(Value::Object(members)) => members
            .iter()
            .all(|(name, value)| value.is_null() || (name == "inheritance" && value == "Default")),
        Some(_) => false,
    }
}

/// `traffic.apiKeyAuthentication`
#[derive(Debug)]
pub(super) struct AuthenticationSpec {
    pub(super) mode: AuthenticationMode,
    pub(super) location: CredentialLocation,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Secret(String),
    Secrets(BTreeMap<String, String>),
    ConfigMaps(BTreeMap<String, String>),
}

impl AuthenticationSpec {
    /// The objects with the keys, which are in the namespace of the policy.
    pub(super) fn source(&self, namespace: &str) -> KeySource {
        match &self.keys {
            Keys::Secret(name) => KeySource::Secret(ObjectKey::new(namespace, name)),
            Keys::Secrets(labels) => KeySource::Secrets(namespace.to_owned(), labels.clone()),
            Keys::ConfigMaps(labels) => KeySource::ConfigMaps(namespace.to_owned(), labels.clone()),
        }
    }
}

pub(super) fn authentication(value: &Value) -> Result<AuthenticationSpec, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Spec {
        mode: Option<String>,
        location: Option<Location>,
        secret_ref: Option<Reference>,
        secret_selector: Option<Selector>,
        config_map_selector: Option<Selector>,
    }
    let spec = Spec::deserialize(value).map_err(|error| error.to_string())?;
    let mode = AuthenticationMode::parse(spec.mode.as_deref())?;
    let keys = match (spec.secret_ref, spec.secret_selector, spec.config_map_selector) {
        (Some(reference), None, None) => Keys::Secret(reference.secret()?),
        (None, Some(selector), None) => Keys::Secrets(selector.labels()?),
        (None, None, Some(selector)) => Keys::ConfigMaps(selector.labels()?),
        _ => return Err("exactly one of secretRef, secretSelector and configMapSelector must be set".into()),
    };
    let location = spec.location.map(Location::header).transpose()?.unwrap_or_default();
    Ok(AuthenticationSpec { mode, location, keys })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    name: String,
    group: Option<String>,
    kind: Option<String>,
}

impl Reference {
    fn secret(self) -> Result<String, String> {
        let kind = self.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("Secret");
        if !self.group.as_deref().unwrap_or_default().is_empty() || kind != "Secret" {
            return Err(format!("secretRef to kind {kind} is not supported; only Secret is"));
        }
        if self.name.is_empty() {
            return Err("secretRef.name is empty".into());
        }
        Ok(self.name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

impl Selector {
    fn labels(self) -> Result<BTreeMap<String, String>, String> {
        // It would take every object of the namespace for one with keys.
        if self.match_labels.is_empty() {
            return Err("matchLabels is empty".into());
        }
        Ok(self.match_labels)
    }
}

fn authorization(value: &Value) -> Result<AccessRule, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        action: Option<String>,
        policy: Policy,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Policy {
        match_expressions: Vec<String>,
    }
    let spec = Spec::deserialize(value).map_err(|error| error.to_string())?;
    let action = match spec.action.as_deref() {
        None | Some("Allow") => Action::Allow,
        Some("Deny") => Action::Deny,
        Some("Require") => Action::Require,
        Some(other) => return Err(format!("the action {other:?} is not supported")),
    };
    let sources = spec.policy.match_expressions;
    if sources.is_empty() || sources.len() > MAX_EXPRESSIONS {
        return Err(format!("policy.matchExpressions must have 1 to {MAX_EXPRESSIONS} expressions"));
    }
    let compile = |(at, source): (usize, &String)| {
        if source.len() > MAX_EXPRESSION_BYTES {
            return Err(format!("policy.matchExpressions[{at}] is longer than {MAX_EXPRESSION_BYTES} bytes"));
        }
        Expression::compile(source).map_err(|why| format!("policy.matchExpressions[{at}]: {why}"))
    };
    let expressions = sources.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
    Ok(AccessRule { action, expressions })
}

/// Where the keys of a policy are. `None` if it has none, or if it is not supported.
pub fn key_source(key: &ObjectKey, policy: &AgentgatewayPolicy) -> Option<KeySource> {
    let value = policy.spec.traffic.as_ref()?.other.get(AUTHENTICATION)?;
    Some(authentication(value).ok()?.source(&key.namespace))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> AgentgatewayPolicy {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": spec }))
            .unwrap()
    }

    fn failure(traffic: Value) -> String {
        parse(&policy(json!({ "traffic": traffic }))).unwrap_err().remove(0).1
    }

    #[test]
    fn the_default_is_strict_and_a_bearer_token() {
        let spec = authentication(&json!({ "secretRef": { "name": "keys" } })).unwrap();
        assert_eq!(
            (spec.mode, spec.location.header.as_str(), spec.location.prefix.as_str()),
            (AuthenticationMode::Strict, "authorization", "Bearer ")
        );
        assert_eq!(spec.source("ns"), KeySource::Secret(ObjectKey::new("ns", "keys")));
        let location = json!({ "header": { "name": "X-API-Key" } });
        let spec = authentication(&json!({
            "mode": "Optional", "secretSelector": { "matchLabels": { "a": "b" } }, "location": location,
        }))
        .unwrap();
        assert_eq!(
            (spec.mode, spec.location.header.as_str(), spec.location.prefix.as_str()),
            (AuthenticationMode::Optional, "x-api-key", "")
        );
        assert_eq!(spec.source("ns").to_string(), "Secret of namespace ns with the labels a=b");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let keys = |more: Value| {
            let mut spec = json!({ "secretRef": { "name": "keys" } });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "apiKeyAuthentication": spec })
        };
        let rule = |rule: Value| json!({ "authorization": rule });
        let expressions = |list: Value| rule(json!({ "policy": { "matchExpressions": list } }));
        for (traffic, expected) in [
            (keys(json!({ "mode": "Lenient" })), "the mode \"Lenient\" is not supported"),
            (keys(json!({ "later": 1 })), "unknown field `later`"),
            (keys(json!({ "secretSelector": { "matchLabels": { "a": "b" } } })), "exactly one of secretRef"),
            (keys(json!({ "location": { "cookie": { "name": "x" } } })), "location.cookie is not supported"),
            (keys(json!({ "location": { "header": { "name": ":path" } } })), "is not the name of a header"),
            (
                keys(json!({ "secretRef": { "name": "x", "group": "g", "kind": "K" } })),
                "kind K is not supported",
            ),
            (json!({ "apiKeyAuthentication": {} }), "exactly one of secretRef"),
            (json!({ "apiKeyAuthentication": "on" }), "traffic.apiKeyAuthentication: invalid type"),
            (
                json!({ "apiKeyAuthentication": { "configMapSelector": { "matchLabels": {} } } }),
                "matchLabels is empty",
            ),
            (
                json!({
                    "apiKeyAuthentication": { "secretRef": { "name": "keys" } },
                    "jwtAuthentication": { "providers": [
                        { "issuer": "i", "jwks": { "remote": { "jwksPath": "k", "backendRef": { "name": "s", "port": 80 } } } },
                    ] },
                }),
                "reads the header authorization, too, and both are Strict",
            ),
            (rule(json!({})), "missing field `policy`"),
            (
                rule(json!({ "action": "Log", "policy": { "matchExpressions": ["true"] } })),
                "the action \"Log\"",
            ),
            (expressions(json!([])), "must have 1 to 256 expressions"),
            (expressions(json!(["true", "a =="])), "policy.matchExpressions[1]: "),
        ] {
            let why = failure(traffic.clone());
            assert!(why.contains(expected), "{traffic}: {why}");
        }
    }

    #[test]
    fn a_policy_that_overrides_others_is_not_supported() {
        let of = |strategy: Value| {
            parse(&policy(json!({
                "traffic": { "apiKeyAuthentication": { "secretRef": { "name": "keys" } } },
                "strategy": strategy,
            })))
        };
        assert!(of(json!(null)).is_ok() && of(json!({ "inheritance": "Default" })).is_ok());
        assert!(of(json!({ "inheritance": "Override" })).is_err() && of(json!({ "later": 1 })).is_err());
    }
}
