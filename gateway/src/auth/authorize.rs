//! Authorization by expressions.

use forebay_routing::{Checks, Identity, ModelNames, RequestAttributes, Variables};
use http::{HeaderMap, Method};

use super::error::Error;

/// An authenticated caller with the rules that apply to its request, for models that are chosen later.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    checks: Checks<'a>,
    identity: Identity<'a>,
    /// As it was when the caller was authorized. `None` if no rule reads it.
    request: Option<Request>,
}

#[derive(Debug)]
struct Request {
    method: Method,
    path: String,
    host: String,
    headers: HeaderMap,
}

/// Fails if the rules do not allow the request. `source`: IP address of the client.
pub(crate) fn authorize<'a>(
    checks: Checks<'a>,
    request: RequestAttributes<'_>,
    source: &str,
    identity: &Identity<'a>,
    models: ModelNames<'_>,
) -> Result<Option<Box<Caller<'a>>>, Error> {
    if !checks.has_rules() {
        return Ok(None);
    }
    let request = checks.reads_request().then_some(request);
    allow(&checks, &Variables::new(request, source, identity, models))?;
    let request = request.map(|request| Request {
        method: request.method.clone(),
        path: request.path.to_owned(),
        host: request.host.to_owned(),
        headers: request.headers.clone(),
    });
    Ok(Some(Box::new(Caller { checks, identity: identity.clone(), request })))
}

impl Caller<'_> {
    /// Fails if the rules do not allow the request for these models.
    pub(crate) fn authorize(&self, source: &str, models: ModelNames<'_>) -> Result<(), Error> {
        let request = self.request.as_ref().map(|request| RequestAttributes {
            method: &request.method,
            path: &request.path,
            host: &request.host,
            headers: &request.headers,
        });
        allow(&self.checks, &Variables::new(request, source, &self.identity, models))
    }
}

fn allow(checks: &Checks<'_>, variables: &Variables<'_>) -> Result<(), Error> {
    if checks.allow(variables) { Ok(()) } else { Err(Error::Denied) }
}
