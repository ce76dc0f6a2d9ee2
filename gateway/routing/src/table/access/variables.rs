//! Variables of expressions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use cel::common::types::{CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use http::{HeaderMap, Method};

use super::identity::Identity;
use super::values::map;

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

/// What expressions may read of the models of a request. `llm` has no member for what is not known, so an expression that
/// reads it cannot be evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelNames<'a> {
    /// `llm.model`: the model that the client asks for.
    pub requested: Option<&'a str>,
    /// `llm.baseModel`: its base model.
    pub base: Option<&'a str>,
    /// `llm.targetModel`: the model that the pod is asked for. `None`: `requested`.
    pub target: Option<&'a str>,
}

/// A member of `llm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelMember {
    Model,
    BaseModel,
    TargetModel,
}

impl ModelMember {
    const ALL: [(&str, Self); 3] =
        [("model", Self::Model), ("baseModel", Self::BaseModel), ("targetModel", Self::TargetModel)];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, member)| *member)
    }
}

/// The variables for one request. Expressions read them in place: nothing is copied that no expression reads.
#[derive(Debug)]
pub struct Variables<'a> {
    request: Option<RequestAttributes<'a>>,
    source: &'a str,
    identity: &'a Identity<'a>,
    models: ModelNames<'a>,
    /// Made when an expression reads them as a whole.
    request_map: OnceLock<CelMap<'a>>,
    source_map: OnceLock<CelMap<'a>>,
    models_map: OnceLock<CelMap<'a>>,
}

impl<'a> Variables<'a> {
    /// `request` may be `None` if no rule [reads](super::Checks::reads_request) it. `source`: IP address of the client.
    pub fn new(
        request: Option<RequestAttributes<'a>>,
        source: &'a str,
        identity: &'a Identity<'a>,
        models: ModelNames<'a>,
    ) -> Self {
        let (request_map, source_map, models_map) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { request, source, identity, models, request_map, source_map, models_map }
    }

    /// The models of the request.
    pub fn models(&self) -> ModelNames<'a> {
        self.models
    }

    fn source(&self) -> CelMap<'a> {
        let mut members = vec![("address", Box::new(CelString::from(self.source)) as Box<dyn Val + 'a>)];
        let identity: &'a Identity<'a> = self.identity;
        if let Some(certificate) = &identity.certificate {
            certificate.add_to(&mut members);
        }
        let members = members.into_iter().map(|(name, value)| (CelMapKey::from(name), value));
        CelMap::from(members.collect::<HashMap<_, _>>())
    }

    /// Who sends the request.
    pub(crate) fn identity(&self) -> &'a Identity<'a> {
        self.identity
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: &'b str| CowVal::owned(CelString::from(text));
        // CEL asks for the longest name first.
        if let Some(member) = name.strip_prefix("llm.") {
            return self.models.get(ModelMember::parse(member)?).map(text);
        }
        match name {
            "llm" => Some(CowVal::Borrowed(self.models_map.get_or_init(|| self.models.map()))),
            "apiKey" => Some(document(self.identity.key.map(|key| key.variable.value()))),
            "jwt" => Some(document(self.identity.jwt.as_ref().map(|jwt| jwt.variable.value()))),
            "source" => Some(CowVal::Borrowed(self.source_map.get_or_init(|| self.source()))),
            "request" => {
                let request = self.request.as_ref()?;
                Some(CowVal::Borrowed(self.request_map.get_or_init(|| request.map())))
            }
            _ => None,
        }
    }
}

fn document(value: Option<&dyn Val>) -> CowVal<'_, '_> {
    CowVal::Borrowed(value.unwrap_or(&CelNull))
}

impl<'a> ModelNames<'a> {
    pub(super) fn get(&self, member: ModelMember) -> Option<&'a str> {
        match member {
            ModelMember::Model => self.requested,
            ModelMember::BaseModel => self.base,
            ModelMember::TargetModel => self.target.or(self.requested),
        }
    }

    fn map(&self) -> CelMap<'a> {
        let known = |(name, member)| Some((name, CelString::from(self.get(member)?)));
        map(ModelMember::ALL.into_iter().filter_map(known))
    }
}

impl<'a> RequestAttributes<'a> {
    fn map(&self) -> CelMap<'a> {
        let headers =
            self.headers.keys().map(|name| (name.as_str(), CelString::from(joined(self.headers, name))));
        let mut members = map([
            ("method", CelString::from(self.method.as_str())),
            ("path", CelString::from(self.path)),
            ("host", CelString::from(self.host.to_ascii_lowercase())),
        ])
        .into_inner();
        members.insert("headers".into(), Box::new(map(headers)));
        members.into()
    }
}

/// All values of a header, as one.
fn joined<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Cow<'a, str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => String::from_utf8_lossy(only.as_bytes()),
        _ => {
            let values: Vec<_> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
            Cow::Owned(String::from_utf8_lossy(&values.join(&b","[..])).into_owned())
        }
    }
}
