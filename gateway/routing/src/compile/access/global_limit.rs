//! Parses `global` of `traffic.rateLimit`.

use forebay_resources::Snapshot;
use serde::Deserialize;
use serde_json::Value;

use super::MAX_EXPRESSION_BYTES;
use super::service::{self, Protocol, Server};
use super::service_ref::ServiceRef;
use crate::compile::policies::{PolicyEffect, PolicyProblem};
use crate::table::{Descriptor, Expression, GlobalLimit, Measure, RateLimitServer};

const MAX_DOMAIN_BYTES: usize = 256;
const MAX_DESCRIPTORS: usize = 16;
const MAX_ENTRIES: usize = 16;
const MAX_NAME_BYTES: usize = 64;

/// Whose server is not looked up yet.
#[derive(Debug)]
pub(super) struct GlobalSpec {
    server: ServiceRef,
    domain: String,
    fails_open: bool,
    descriptors: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescriptorSpec {
    entries: Vec<Entry>,
    cost: Option<String>,
    unit: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    expression: String,
}

impl GlobalSpec {
    /// An error starts with the path below `global`, or with `: `.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Spec {
            backend_ref: Value,
            domain: String,
            descriptors: Vec<DescriptorSpec>,
            failure_mode: Option<String>,
        }
        let spec = Spec::deserialize(value).map_err(|error| format!(": {error}"))?;
        let server = ServiceRef::parse(&spec.backend_ref).map_err(|why| format!(".backendRef{why}"))?;
        if spec.domain.is_empty() || spec.domain.len() > MAX_DOMAIN_BYTES {
            return Err(format!(".domain must have 1 to {MAX_DOMAIN_BYTES} bytes"));
        }
        let fails_open = match spec.failure_mode.as_deref() {
            None | Some("FailClosed") => false,
            Some("FailOpen") => true,
            Some(other) => return Err(format!(".failureMode {other:?} is not supported")),
        };
        if spec.descriptors.is_empty() || spec.descriptors.len() > MAX_DESCRIPTORS {
            return Err(format!(".descriptors must have 1 to {MAX_DESCRIPTORS} descriptors"));
        }
        let descriptor = |(at, descriptor): (usize, DescriptorSpec)| {
            descriptor.compile().map_err(|why| format!(".descriptors[{at}]{why}"))
        };
        let descriptors =
            spec.descriptors.into_iter().enumerate().map(descriptor).collect::<Result<_, _>>()?;
        Ok(Self { server, domain: spec.domain, fails_open, descriptors })
    }

    /// `namespace`: of the policy.
    pub(super) fn resolve(
        self,
        snapshot: &Snapshot,
        namespace: &str,
        problems: &mut Vec<PolicyProblem>,
    ) -> GlobalLimit {
        let server = RateLimitServer { service: self.server.key(namespace), port: self.server.port };
        let found = service::server(snapshot, namespace, &server.service, server.port, Protocol::Grpc);
        let Server { endpoints, tls } = found.unwrap_or_else(|why| {
            let (effect, then) = if self.fails_open {
                (PolicyEffect::NotSet, "requests are not limited by it")
            } else {
                (PolicyEffect::Closes, "requests to which it applies are rejected")
            };
            let message = format!("traffic.rateLimit: global.backendRef: {why}: {then}");
            problems.push(PolicyProblem { effect, message });
            Server::default()
        });
        let Self { domain, fails_open, descriptors, .. } = self;
        GlobalLimit { server, endpoints, tls, domain, fails_open, descriptors }
    }
}

impl DescriptorSpec {
    /// An error starts with the path below the descriptor.
    fn compile(self) -> Result<Descriptor, String> {
        let measure = match self.unit.as_deref() {
            None | Some("Requests") => Measure::Requests,
            Some("Tokens") => Measure::Tokens,
            Some(other) => return Err(format!(".unit {other:?} is not supported")),
        };
        if self.entries.is_empty() || self.entries.len() > MAX_ENTRIES {
            return Err(format!(".entries must have 1 to {MAX_ENTRIES} entries"));
        }
        let entry = |(at, entry): (usize, Entry)| {
            if entry.name.is_empty() || entry.name.len() > MAX_NAME_BYTES {
                return Err(format!(".entries[{at}].name must have 1 to {MAX_NAME_BYTES} bytes"));
            }
            let value =
                expression(&entry.expression).map_err(|why| format!(".entries[{at}].expression: {why}"))?;
            Ok((entry.name, value))
        };
        let entries = self.entries.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        let cost = match (self.cost, measure) {
            (None, _) => None,
            (Some(_), Measure::Tokens) => {
                return Err(
                    ".cost with the unit Tokens is not supported: all tokens of a request are counted".into(),
                );
            }
            (Some(cost), Measure::Requests) => {
                Some(expression(&cost).map_err(|why| format!(".cost: {why}"))?)
            }
        };
        Ok(Descriptor { measure, entries, cost })
    }
}

fn expression(source: &str) -> Result<Expression, String> {
    if source.is_empty() || source.len() > MAX_EXPRESSION_BYTES {
        return Err(format!("it must have 1 to {MAX_EXPRESSION_BYTES} bytes"));
    }
    Expression::compile(source)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Identity, ModelNames, Variables};

    fn good() -> Value {
        json!({
            "backendRef": { "name": "limits", "port": 8081 },
            "domain": "models",
            "descriptors": [
                { "entries": [{ "name": "address", "expression": "source.address" }] },
                { "entries": [{ "name": "key", "expression": "apiKey.name" }], "unit": "Tokens" },
                {
                    "entries": [{ "name": "a", "expression": "1 + 1" }, { "name": "b", "expression": "true" }],
                    "cost": "size(source.address)",
                },
            ],
        })
    }

    fn with(path: &str, value: Value) -> Value {
        let mut changed = good();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    }

    #[test]
    fn descriptors_have_the_values_of_the_request() {
        let spec = GlobalSpec::parse(&good()).unwrap();
        let mut problems = Vec::new();
        let limit = spec.resolve(&Snapshot::default(), "ns", &mut problems);
        assert_eq!(limit.server.to_string(), "ns/limits:8081");
        assert!(!limit.fails_open && limit.counts_tokens());
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!(problem.effect, PolicyEffect::Closes);
        assert_eq!(
            problem.message,
            "traffic.rateLimit: global.backendRef: the Service ns/limits does not exist: requests to which it applies are \
             rejected"
        );
        let identity = Identity::default();
        let variables = Variables::new(None, "10.0.0.9", &identity, ModelNames::default());
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let values: Vec<_> =
            limit.descriptors(&variables).into_iter().map(|it| (it.entries, it.cost)).collect();
        // Without a key, the second one has no value.
        assert_eq!(
            values,
            [(vec![text("address", "10.0.0.9")], 1), (vec![text("a", "2"), text("b", "true")], 8)]
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let first = |member: &str, value: Value| {
            let mut changed = good();
            changed["descriptors"][0][member] = value;
            changed
        };
        let other = |member: &str, value: Value| {
            let mut changed = good();
            changed[member] = value;
            changed
        };
        for (value, expected) in [
            (json!({}), ": missing field `backendRef`"),
            (other("later", json!(1)), ": unknown field `later`"),
            (other("failureMode", json!("Half")), ".failureMode \"Half\" is not supported"),
            (with("/domain", json!("")), ".domain must have 1 to 256 bytes"),
            (with("/descriptors", json!([])), ".descriptors must have 1 to 16 descriptors"),
            (with("/backendRef", json!({ "name": "a" })), ".backendRef.port must be set"),
            (
                with(
                    "/backendRef",
                    json!({ "name": "a", "kind": "AgentgatewayBackend", "group": "agentgateway.dev" }),
                ),
                ".backendRef to kind AgentgatewayBackend is not supported",
            ),
            (first("unit", json!("Bytes")), ".descriptors[0].unit \"Bytes\" is not supported"),
            (first("entries", json!([])), ".descriptors[0].entries must have 1 to 16 entries"),
            (first("cost", json!("1 +")), ".descriptors[0].cost: "),
            (with("/descriptors/0/entries/0/name", json!("")), ".descriptors[0].entries[0].name must have"),
            (
                with("/descriptors/0/entries/0/expression", json!("a ==")),
                ".descriptors[0].entries[0].expression: ",
            ),
            (
                json!({
                    "backendRef": { "name": "a", "port": 1 }, "domain": "d",
                    "descriptors": [
                        { "entries": [{ "name": "a", "expression": "1" }], "unit": "Tokens", "cost": "1" },
                    ],
                }),
                ".descriptors[0].cost with the unit Tokens is not supported",
            ),
        ] {
            let why = GlobalSpec::parse(&value).unwrap_err();
            assert!(why.contains(expected), "{value}: {why}");
        }
        assert!(GlobalSpec::parse(&other("failureMode", json!("FailOpen"))).unwrap().fails_open);
    }
}
