//! Authorization by expressions.

use forebay_routing::{Checks, Identity, RequestAttributes, Variables};

use super::error::Error;

/// The models of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Models<'m> {
    /// The model that the client asks for.
    pub(crate) requested: Option<&'m str>,
    pub(crate) base: Option<&'m str>,
    /// The model that the pod is asked for.
    pub(crate) target: Option<&'m str>,
}

impl Models<'_> {
    /// Sets the members of `llm`.
    pub(crate) fn set(self, variables: &mut Variables) {
        if let Some(model) = self.requested {
            variables.set_model(model);
        }
        if let Some(model) = self.base {
            variables.set_base_model(model);
        }
        if let Some(model) = self.target.or(self.requested) {
            variables.set_target_model(model);
        }
    }
}

/// An authenticated caller with the rules that apply to its request.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    checks: Checks<'a>,
    variables: Variables,
}

impl<'a> Caller<'a> {
    /// `None` if there is no rule. `source`: IP address of the client.
    pub(crate) fn new(
        checks: Checks<'a>,
        request: RequestAttributes<'_>,
        source: &str,
        identity: &Identity<'_>,
    ) -> Option<Box<Self>> {
        let request = checks.reads_request().then_some(request);
        checks
            .has_rules()
            .then(|| Box::new(Self { checks, variables: Variables::new(request, source, identity) }))
    }

    /// Fails if the rules do not allow the request for these models.
    pub(crate) fn authorize(&self, models: Models<'_>) -> Result<(), Error> {
        let mut variables = self.variables.clone();
        models.set(&mut variables);
        if self.checks.allow(&variables) { Ok(()) } else { Err(Error::Denied) }
    }
}
