//! `traffic.jwtAuthentication`: fields, and the key sets that they name.

use std::sync::Arc;
use std::time::Duration;

use forebay_resources::Snapshot;
use http::HeaderName;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_json::Value;

use super::location::Location;
use super::service::{self, Protocol, Server};
use super::service_ref::ServiceRef;
use crate::compile::policies::{PolicyEffect, PolicyProblem};
use crate::table::{
    AuthenticationMode, CredentialLocation, JwksId, JwksSource, JwtAuthentication, JwtKeys, JwtProvider,
    RemoteJwks, parse_duration,
};

/// Field of `spec.traffic`.
pub(super) const JWT: &str = "jwtAuthentication";
const MAX_PROVIDERS: usize = 64;
const MAX_AUDIENCES: usize = 64;
const MAX_ISSUER_BYTES: usize = 256;
const MAX_INLINE_BYTES: usize = 65_536;
const MAX_PATH_BYTES: usize = 2000;
const MIN_CACHE_DURATION: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
pub(super) struct JwtSpec {
    mode: AuthenticationMode,
    location: CredentialLocation,
    providers: Vec<Provider>,
}

impl JwtSpec {
    /// The header that must have a token.
    pub(super) fn strict_header(&self) -> Option<&HeaderName> {
        (self.mode == AuthenticationMode::Strict).then_some(&self.location.header)
    }
}

#[derive(Debug)]
struct Provider {
    issuer: String,
    audiences: Vec<String>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    /// With what is wrong with some of them.
    Inline(JwtKeys, Vec<String>),
    Remote(Remote),
}

/// A key set of a Service.
#[derive(Debug)]
struct Remote {
    server: ServiceRef,
    path: String,
    refresh: Duration,
}

pub(super) fn parse(value: &Value) -> Result<JwtSpec, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        mode: Option<String>,
        location: Option<Location>,
        mcp: Option<Value>,
        providers: Vec<Value>,
    }
    let spec = Spec::deserialize(value).map_err(|error| error.to_string())?;
    if spec.mcp.is_some() {
        return Err("mcp is not supported".into());
    }
    if spec.providers.is_empty() || spec.providers.len() > MAX_PROVIDERS {
        return Err(format!("providers must have 1 to {MAX_PROVIDERS} providers"));
    }
    let provider =
        |(at, value): (usize, &Value)| Provider::parse(value).map_err(|why| format!("providers[{at}]{why}"));
    let providers = spec.providers.iter().enumerate().map(provider).collect::<Result<_, _>>()?;
    let mode = AuthenticationMode::parse(spec.mode.as_deref())?;
    let location = spec.location.map(Location::header).transpose()?.unwrap_or_default();
    Ok(JwtSpec { mode, location, providers })
}

impl JwtSpec {
    /// `namespace`: of the policy.
    pub(super) fn resolve(
        self,
        snapshot: &Snapshot,
        namespace: &str,
        problems: &mut Vec<PolicyProblem>,
    ) -> JwtAuthentication {
        let mut report = |at: usize, why: String| {
            let message = format!("traffic.{JWT}: providers[{at}].jwks{why}");
            problems.push(PolicyProblem { effect: PolicyEffect::KeyNotAccepted, message });
        };
        let provider = |(at, provider): (usize, Provider)| {
            let keys = match provider.keys {
                Keys::Inline(keys, unusable) => {
                    unusable.into_iter().for_each(|why| report(at, format!(".inline: {why}")));
                    JwksSource::Inline(keys)
                }
                Keys::Remote(remote) => {
                    let (service, port) = (remote.server.key(namespace), remote.server.port);
                    let found = service::server(snapshot, namespace, &service, port, Protocol::Http);
                    let Server { endpoints, tls } = found.unwrap_or_else(|why| {
                        report(at, format!(".remote.backendRef: {why}: its keys are not loaded"));
                        Server::default()
                    });
                    let id = JwksId { service, port, path: remote.path };
                    JwksSource::Remote(Arc::new(RemoteJwks { id, endpoints, tls, refresh: remote.refresh }))
                }
            };
            JwtProvider::new(provider.issuer, &provider.audiences, keys)
        };
        let providers = self.providers.into_iter().enumerate().map(provider).collect();
        JwtAuthentication { mode: self.mode, location: self.location, providers }
    }
}

impl Provider {
    /// An error starts with the path below the provider, or with `: `.
    fn parse(value: &Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Spec {
            issuer: String,
            audiences: Option<Vec<String>>,
            jwks: Jwks,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Jwks {
            inline: Option<String>,
            remote: Option<Value>,
        }
        let spec = Spec::deserialize(value).map_err(|error| format!(": {error}"))?;
        if spec.issuer.is_empty() || spec.issuer.len() > MAX_ISSUER_BYTES {
            return Err(format!(".issuer must have 1 to {MAX_ISSUER_BYTES} bytes"));
        }
        // An empty list would be a mistake that accepts every audience.
        if spec.audiences.as_ref().is_some_and(|it| it.is_empty() || it.len() > MAX_AUDIENCES) {
            return Err(format!(".audiences must have 1 to {MAX_AUDIENCES} audiences, or be left out"));
        }
        let keys = match (spec.jwks.inline, spec.jwks.remote) {
            (Some(inline), None) => inline_keys(&inline).map_err(|why| format!(".jwks.inline: {why}"))?,
            (None, Some(remote)) => {
                Keys::Remote(Remote::parse(&remote).map_err(|why| format!(".jwks.remote{why}"))?)
            }
            _ => return Err(".jwks: exactly one of inline and remote must be set".into()),
        };
        Ok(Self { issuer: spec.issuer, audiences: spec.audiences.unwrap_or_default(), keys })
    }
}

fn inline_keys(document: &str) -> Result<Keys, String> {
    if document.len() > MAX_INLINE_BYTES {
        return Err(format!("it is longer than {MAX_INLINE_BYTES} bytes"));
    }
    let (keys, unusable) = JwtKeys::parse(document.as_bytes())?;
    if keys.is_empty() {
        let why = unusable.join("; ");
        return Err(format!("it has no key for signatures{}{why}", if why.is_empty() { "" } else { ": " }));
    }
    Ok(Keys::Inline(keys, unusable))
}

impl Remote {
    /// An error starts with the path below `remote`, or with `: `.
    fn parse(value: &Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Spec {
            backend_ref: Value,
            jwks_path: String,
            cache_duration: Option<String>,
        }
        let spec = Spec::deserialize(value).map_err(|error| format!(": {error}"))?;
        let server = ServiceRef::parse(&spec.backend_ref).map_err(|why| format!(".backendRef{why}"))?;
        let refresh = match &spec.cache_duration {
            None => MIN_CACHE_DURATION,
            Some(text) => parse_duration(text).filter(|it| *it >= MIN_CACHE_DURATION).ok_or_else(|| {
                format!(".cacheDuration {text:?} is not a duration of at least 5m, such as 10m or 1h30m")
            })?,
        };
        let path = path(&spec.jwks_path).map_err(|why| format!(".jwksPath {why}"))?;
        Ok(Self { server, path, refresh })
    }
}

/// With the slash that may be left out.
fn path(path: &str) -> Result<String, String> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err(format!("must have 1 to {MAX_PATH_BYTES} bytes"));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let is_whole = |it: &PathAndQuery| it.as_str() == path;
    if !PathAndQuery::try_from(path.as_str()).is_ok_and(|it| is_whole(&it)) {
        return Err(format!("{path:?} is not the path of a URL"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use forebay_test_tokens::{TokenKey, key_set};
    use serde_json::json;

    use super::*;

    fn with(member: &str, value: Value, mut spec: Value) -> Value {
        spec[member] = value;
        spec
    }

    fn remote(more: Value) -> Value {
        let mut remote = json!({ "backendRef": { "name": "idp", "port": 80 }, "jwksPath": "keys" });
        remote.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "issuer": "https://idp", "jwks": { "remote": remote } })
    }

    fn providers(providers: Value) -> Value {
        json!({ "providers": providers })
    }

    fn inline(document: &str) -> Value {
        providers(json!([{ "issuer": "https://idp", "jwks": { "inline": document } }]))
    }

    #[test]
    fn the_defaults_are_those_of_the_api() {
        let spec = parse(&providers(json!([remote(json!({}))]))).unwrap();
        assert_eq!((spec.mode, spec.location), (AuthenticationMode::Strict, CredentialLocation::default()));
        let Keys::Remote(remote) = &spec.providers[0].keys else { panic!("{:?}", spec.providers) };
        assert_eq!((remote.path.as_str(), remote.refresh), ("/keys", Duration::from_secs(300)));
        assert!(spec.providers[0].audiences.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let good = || remote(json!({}));
        let key = TokenKey::new("ES256", "a");
        let document = key_set([&key]);
        let private = document.replace("\"x\":", "\"d\":\"c2VjcmV0\",\"x\":");
        let reference = |more: Value| {
            let mut reference = json!({ "name": "idp", "port": 80 });
            reference.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            providers(json!([remote(json!({ "backendRef": reference }))]))
        };
        let of_remote = |more: Value| providers(json!([remote(more)]));
        let both = json!({ "inline": document, "remote": good()["jwks"]["remote"] });
        for (spec, expected) in [
            (json!("on"), "invalid type"),
            (json!({ "mode": "Strict" }), "missing field `providers`"),
            (providers(json!([])), "providers must have 1 to 64 providers"),
            (providers(json!(vec![good(); 65])), "providers must have 1 to 64 providers"),
            (
                with("mode", json!("Lenient"), providers(json!([good()]))),
                "the mode \"Lenient\" is not supported",
            ),
            (with("mcp", json!({}), providers(json!([good()]))), "mcp is not supported"),
            (with("later", json!(1), providers(json!([good()]))), "unknown field `later`"),
            (
                with("location", json!({ "cookie": { "name": "x" } }), providers(json!([good()]))),
                "location.cookie is not supported",
            ),
            (providers(json!([good(), { "issuer": "x" }])), "providers[1]: missing field `jwks`"),
            (providers(json!([with("later", json!(1), good())])), "providers[0]: unknown field `later`"),
            (
                providers(json!([with("issuer", json!(""), good())])),
                "providers[0].issuer must have 1 to 256 bytes",
            ),
            (
                providers(json!([with("issuer", json!("x".repeat(257)), good())])),
                "providers[0].issuer must have 1 to 256 bytes",
            ),
            (
                providers(json!([with("audiences", json!([]), good())])),
                "providers[0].audiences must have 1 to 64 audiences, or be left out",
            ),
            (
                providers(json!([with("audiences", json!(vec!["a"; 65]), good())])),
                "providers[0].audiences must have 1 to 64",
            ),
            (
                providers(json!([with("jwks", json!({}), good())])),
                "providers[0].jwks: exactly one of inline and remote must be set",
            ),
            (
                providers(json!([with("jwks", both, good())])),
                "providers[0].jwks: exactly one of inline and remote must be set",
            ),
            (inline("{"), "providers[0].jwks.inline: it is not a JSON document"),
            (inline("{}"), "providers[0].jwks.inline: it is not a JSON Web Key Set: it has no list `keys`"),
            (inline("{\"keys\":[]}"), "providers[0].jwks.inline: it has no key for signatures"),
            (inline(&" ".repeat(65_537)), "providers[0].jwks.inline: it is longer than 65536 bytes"),
            (inline(&private), "keys[0] (kid \"a\") is not accepted: it is a private key"),
            (of_remote(json!({ "later": 1 })), "providers[0].jwks.remote: unknown field `later`"),
            (
                of_remote(json!({ "backendRef": {} })),
                "providers[0].jwks.remote.backendRef: missing field `name`",
            ),
            (
                reference(json!({ "group": "agentgateway.dev", "kind": "AgentgatewayBackend" })),
                "providers[0].jwks.remote.backendRef to kind AgentgatewayBackend is not supported; only Service is",
            ),
            (reference(json!({ "port": null })), ".backendRef.port must be set for a Service"),
            (reference(json!({ "name": "" })), ".backendRef.name is empty"),
            (reference(json!({ "later": 1 })), "unknown field `later`"),
            (
                of_remote(json!({ "cacheDuration": "4m" })),
                ".cacheDuration \"4m\" is not a duration of at least 5m",
            ),
            (
                of_remote(json!({ "cacheDuration": "an hour" })),
                ".cacheDuration \"an hour\" is not a duration",
            ),
            (of_remote(json!({ "jwksPath": "" })), ".jwksPath must have 1 to 2000 bytes"),
            (of_remote(json!({ "jwksPath": "a b" })), ".jwksPath \"/a b\" is not the path of a URL"),
            (of_remote(json!({ "jwksPath": "a#b" })), ".jwksPath \"/a#b\" is not the path of a URL"),
        ] {
            let why = parse(&spec).unwrap_err();
            assert!(why.contains(expected), "{spec}: {why}");
            assert!(!why.contains("c2VjcmV0"), "{why}");
        }
        assert!(parse(&inline(&document)).is_ok());
    }
}
