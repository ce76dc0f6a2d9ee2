//! Variables of expressions.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Value};
use http::{HeaderMap, Method};

use super::expression::context;
use super::identity::Identity;
use super::values::{map, string};

/// What expressions may read of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestAttributes<'a> {
    /// `request.method`
    pub method: &'a Method,
    /// `request.path`, normalised, without the query.
    pub path: &'a str,
    /// `request.host`, without the port.
    pub host: &'a str,
    /// `request.headers`, by lower-case name.
    pub headers: &'a HeaderMap,
}

/// The variables for one request. `llm` has no member for what is not known, so an expression that reads it cannot be
/// evaluated.
#[derive(Clone, Debug)]
pub struct Variables {
    request: Option<Value>,
    source: Value,
    api_key: Value,
    jwt: Value,
    llm: HashMap<Key, Value>,
}

impl Variables {
    /// `request` may be `None` if no rule [reads](super::Checks::reads_request) it. `source`: IP address of the client.
    pub fn new(request: Option<RequestAttributes<'_>>, source: &str, identity: &Identity<'_>) -> Self {
        Self {
            request: request.map(|request| request_value(&request)),
            source: map([("address", string(source))]),
            api_key: identity.key.map_or(Value::Null, |key| key.variable.clone()),
            jwt: identity.jwt.as_ref().map_or(Value::Null, |jwt| jwt.variable.clone()),
            llm: HashMap::new(),
        }
    }

    /// `llm.model`: the model that the client asks for.
    pub fn set_model(&mut self, model: &str) {
        self.set("model", model);
    }

    /// `llm.baseModel`: the base model of it.
    pub fn set_base_model(&mut self, model: &str) {
        self.set("baseModel", model);
    }

    /// `llm.targetModel`: the model that the pod is asked for.
    pub fn set_target_model(&mut self, model: &str) {
        self.set("targetModel", model);
    }

    fn set(&mut self, name: &str, model: &str) {
        self.llm.insert(name.into(), string(model));
    }

    pub(crate) fn context(&self) -> Context<'static, 'static> {
        let mut context = context();
        if let Some(request) = &self.request {
            context.add_variable_from_value("request", request.clone());
        }
        context.add_variable_from_value("source", self.source.clone());
        context.add_variable_from_value("apiKey", self.api_key.clone());
        context.add_variable_from_value("jwt", self.jwt.clone());
        context.add_variable_from_value("llm", Value::Map(Map { map: Arc::new(self.llm.clone()) }));
        context
    }
}

fn request_value(request: &RequestAttributes<'_>) -> Value {
    let headers = request.headers.keys().map(|name| {
        let values: Vec<_> = request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
        (name.as_str(), string(&String::from_utf8_lossy(&values.join(&b","[..]))))
    });
    map([
        ("method", string(request.method.as_str())),
        ("path", string(request.path)),
        ("host", string(&request.host.to_ascii_lowercase())),
        ("headers", map(headers)),
    ])
}
