//! Sessions that stay at one endpoint: `session-affinity-scorer` and `session-affinity-filter`.

mod bindings;

use std::net::SocketAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use forebay_resources::ObjectKey;
use serde::{Deserialize, Deserializer, de::Error as _};

use self::bindings::Bindings;
use super::{parameter, view::View};

/// Keeps a session at its endpoint. The scorer gives the endpoint 1 and others 0; the filter removes the others. A new session,
/// and one whose endpoint is not a candidate, has no preference.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SessionSettings {
    /// How a request names its session: `encoded_endpoint_header` (the token of an earlier response) or `session_id` (an
    /// identifier of the client). Default `encoded_endpoint_header`.
    pub strategy: Strategy,
    /// `header`: request and response header of the token. Default `x-session-token`.
    pub encoded_endpoint_header_config: TokenSettings,
    /// `sources`: list of `header`, the first that is set counts (default `x-session-id`). `evictionTtlSeconds`: how long
    /// a session that is not used stays at its endpoint (default 300). `evictionSweepSeconds`: no effect.
    pub session_id_config: IdSettings,
}

/// How a request names its session.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
pub enum Strategy {
    /// The token of an earlier response.
    #[default]
    EncodedEndpointHeader,
    /// An identifier of the client.
    SessionId,
}

/// Settings of [`Strategy::EncodedEndpointHeader`].
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenSettings {
    #[serde(deserialize_with = "parameter::header_name")]
    header: String,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { header: "x-session-token".to_owned() }
    }
}

/// Settings of [`Strategy::SessionId`].
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IdSettings {
    #[serde(deserialize_with = "sources")]
    sources: Vec<Source>,
    #[serde(deserialize_with = "parameter::positive")]
    eviction_ttl_seconds: f32,
    #[serde(rename = "evictionSweepSeconds", deserialize_with = "parameter::positive")]
    _eviction_sweep_seconds: f32,
}

impl Default for IdSettings {
    fn default() -> Self {
        let source = Source { header: "x-session-id".to_owned() };
        Self { sources: vec![source], eviction_ttl_seconds: 300.0, _eviction_sweep_seconds: 10.0 }
    }
}

/// Where an identifier is read from. Attributes of other plugins are not supported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Source {
    #[serde(deserialize_with = "parameter::header_name")]
    header: String,
}

fn sources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    let sources = Vec::<Source>::deserialize(deserializer)?;
    if sources.is_empty() { Err(D::Error::custom("must not be empty")) } else { Ok(sources) }
}

/// Finds the endpoint of a request's session.
#[derive(Debug)]
pub struct SessionAffinity {
    by: By,
}

#[derive(Debug)]
enum By {
    Token { header: String },
    Id { headers: Vec<String>, bindings: Bindings },
}

/// Where a session belongs.
#[derive(Debug)]
pub(super) enum Home {
    Pod { namespace: String, name: String },
    Endpoint(SocketAddr),
}

impl Home {
    pub(super) fn is(&self, view: &View<'_>, candidate: u32) -> bool {
        match self {
            Self::Pod { namespace, name } => {
                view.pod(candidate).is_some_and(|pod| pod.namespace == *namespace && pod.name == *name)
            }
            Self::Endpoint(address) => view.address(candidate) == Some(*address),
        }
    }
}

impl From<SessionSettings> for SessionAffinity {
    fn from(settings: SessionSettings) -> Self {
        let by = match settings.strategy {
            Strategy::EncodedEndpointHeader => {
                By::Token { header: settings.encoded_endpoint_header_config.header }
            }
            Strategy::SessionId => By::Id {
                headers: settings.session_id_config.sources.into_iter().map(|it| it.header).collect(),
                bindings: Bindings::new(settings.session_id_config.eviction_ttl_seconds.into()),
            },
        };
        Self { by }
    }
}

impl SessionAffinity {
    /// `None`: no session, or a new one.
    pub(super) fn home(&self, view: &View<'_>) -> Option<Home> {
        match &self.by {
            By::Token { header } => pod(view.header(header)?),
            By::Id { headers, bindings } => {
                bindings.endpoint(id(view, headers)?, view.now()).map(Home::Endpoint)
            }
        }
    }

    pub(super) fn picked(&self, view: &View<'_>, candidate: u32) {
        let By::Id { headers, bindings } = &self.by else { return };
        if let (Some(id), Some(address)) = (id(view, headers), view.address(candidate)) {
            bindings.bind(id, address, view.now());
        }
    }

    pub(super) fn token_header(&self) -> Option<&str> {
        match &self.by {
            By::Token { header } => Some(header),
            By::Id { .. } => None,
        }
    }
}

fn id<'a>(view: &'a View<'_>, headers: &[String]) -> Option<&'a str> {
    headers.iter().filter_map(|name| view.header(name)).map(str::trim).find(|id| !id.is_empty())
}

/// The token of a session: `namespace/name` of its pod in base64.
pub(super) fn token(pod: &ObjectKey) -> String {
    BASE64_STANDARD.encode(format!("{}/{}", pod.namespace, pod.name))
}

fn pod(token: &str) -> Option<Home> {
    let text = String::from_utf8(BASE64_STANDARD.decode(token.trim()).ok()?).ok()?;
    let (namespace, name) = text.split_once('/')?;
    Some(Home::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
}
